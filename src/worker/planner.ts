import { z } from 'zod'
import { SCRIPT_GUIDE } from './script_guide.ts'
import type { Tool } from './tool_chat.ts'
import type { Task } from './workflow_task.ts'

/** What the planner calls to save a script. */
export const save_tool: Tool = {
  name: 'save',
  description:
    'Saves the script. Answers with a list of issues if there are any: correct them and save again.',
  parameters: {
    type: 'object',
    properties: {
      code: { type: 'string', description: 'The whole script.' },
      title: { type: 'string', description: 'What the automation is called: a few words.' },
      summary: {
        type: 'string',
        description: 'What it does, when, and which secrets have to be set: a few sentences for its owner.',
      },
    },
    required: ['code', 'title', 'summary'],
    additionalProperties: false,
  },
}

export const SaveArguments = z.object({
  code: z.string().min(1),
  title: z.string().trim().min(1).max(255),
  summary: z.string().trim().min(1).max(2000),
})

/** What the planner is told before the conversation. */
export function plannerPrompt({ script, title, time_zone, secret_names }: Task): string {
  const present =
    script === null
      ? 'There is no script yet.'
      : `The script as it is (version ${script.major}.${script.minor}):\n\n${script.code}`
  return `You write automations for people who do not program. Write the script that does what the owner asks for, and call the tool
"save" with it. If you can not know what is meant, or an address, an account or a rule is missing, ask one short question instead
of calling the tool: the owner answers, and you go on. Never claim to have done something that the script does not do.
The title is ${JSON.stringify(title ?? '')}, the time zone ${time_zone ?? 'UTC'}. Secrets that are set: ${secret_names.join(', ') || 'none'}.

${SCRIPT_GUIDE}

${present}`
}
