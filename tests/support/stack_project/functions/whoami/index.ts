import { withSupabase } from '@supabase/server'

/** Says who calls, as @supabase/server sees it, and reads with the caller's rights. */
export default {
  fetch: withSupabase({ auth: ['user', 'secret', 'publishable'] }, async (_request, context) => {
    const { data, error } = await context.supabase.rpc('sessions')
    return Response.json({ mode: context.authMode, user_id: context.userClaims?.id ?? null, data, error })
  }),
}
