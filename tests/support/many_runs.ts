import type postgres from 'postgres'

/**
 * Fills a database with ended runs, without their history: `bots` and `executions` of this owner, one a minute back
 * from now, every tenth failed (every thousandth bot with the code RARE).
 */
export async function manyRuns(
  superuser: postgres.Sql,
  owner_id: string,
  { bots, executions }: { bots: number; executions: number },
): Promise<void> {
  await superuser.begin(async (sql) => {
    await sql`set local session_replication_role = replica`
    await sql`
      insert into public.workflow_threads (
        owner_id, platform, native_meeting_id, meeting_url, bot_status, meeting_status, created_at, bot_status_updated_at,
        meeting_status_updated_at, bot_started_at, bot_completed_at, joined_at, left_at, completion_reason, failure_stage,
        error_stage, error_code, error_message, version, bot_seq, meeting_seq
      )
      select ${owner_id}, 'room', 'room-' || n, 'http://127.0.0.1/room',
        case when n % 10 = 0 then 'failed' else 'completed' end::public.bot_status,
        case when n % 10 = 0 then 'failed' else 'completed' end::public.meeting_status,
        at, at + interval '9 s', at + interval '8 s', at, at + interval '9 s', at, at + interval '8 s',
        case when n % 10 <> 0 then 'meeting_ended'::public.meeting_completion_reason end,
        case when n % 10 = 0 then 'joining'::public.meeting_failure_stage end,
        case when n % 10 = 0 then 'joining'::public.bot_error_stage end,
        case when n % 1000 = 0 then 'RARE' when n % 10 = 0 then 'JOIN_ROOM_TIMEOUT' end,
        case when n % 10 = 0 then 'The bot did not get into the room or its lobby in time.' end, 8, 4, 4
      from generate_series(1, ${bots}::int) n, lateral (select now() - n * interval '1 min' as at) t`
    await sql`
      insert into public.flow_executions (
        flow_id, owner_id, status, flow_name, prompts, agent, total_prompts, current_prompt_index, created_at, started_at,
        progressed_at, completed_at, error, error_code, version
      )
      select gen_random_uuid(), ${owner_id}, case when n % 10 = 0 then 'failed' else 'completed' end::public.flow_execution_status,
        'Routine ' || n % 7, '["a", "b"]', '{}', 2, case when n % 10 = 0 then 1 else 2 end, at, at, at + interval '5 s', at + interval '5 s',
        case when n % 10 = 0 then 'The agent failed.' end, case when n % 10 = 0 then 'AGENT_ERROR' end, 2
      from generate_series(1, ${executions}::int) n, lateral (select now() - n * interval '1 min' - interval '30 s' as at) t`
  })
  await superuser`vacuum analyze public.workflow_threads`
  await superuser`vacuum analyze public.flow_executions`
}
