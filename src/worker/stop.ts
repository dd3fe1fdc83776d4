import { errorFields, log } from './log.ts'
import { createMachines } from './machines.ts'
import type { WorkerSettings } from './settings.ts'

/** What is to be done with the machine of a bot that was stopped. */
export interface MachineCommand {
  bot_id: string
  container_id: string
  /** stop: SIGTERM, so that the bot leaves by itself. destroy: it is not in the room, there is nothing to leave. */
  action: 'stop' | 'destroy'
}

/**
 * Sends the leave commands of a stop, once each. A failure is only logged: the bot hears of it with its next callback,
 * and its deadline destroys the machine.
 */
export async function sendMachineCommands(
  { machines: settings }: WorkerSettings,
  commands: readonly MachineCommand[],
  grace_s: number,
): Promise<void> {
  if (commands.length === 0 || 'missing' in settings) return
  const machines = createMachines(settings)
  await Promise.all(
    commands.map(async ({ bot_id, container_id, action }) => {
      try {
        if (action === 'stop') await machines.stop(container_id, grace_s)
        else await machines.destroy(container_id)
        log('info', 'machine_command', { bot_id, container_id, action })
      } catch (error) {
        log('error', 'machine_command_failed', { bot_id, container_id, action, ...errorFields(error) })
      }
    }),
  )
}
