export default { fetch: () => Response.json({ ok: true }) }
