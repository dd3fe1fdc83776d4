/** Who asks for the bots of the demo, and is filled in where the local dashboard asks who is there. */
export const demo_user = { email: 'demo@rollcall.local', password: 'rollcall-demo' }
