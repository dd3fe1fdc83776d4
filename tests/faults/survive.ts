// For the stack of a soak (node --import): its Postgres is killed, and the stack is to go on. The library `postgres`
// writes to the socket that it has just given up when a transaction was under way, which nobody can catch but here.
process.on('uncaughtException', (error) => {
  if (error instanceof TypeError && /postgres\/src\/connection\.js/.test(error.stack ?? '')) return
  console.error(error)
  process.exit(1)
})
