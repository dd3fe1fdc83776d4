import { z } from 'zod'

// In a query everything is text, so numbers are read from their one spelling.
/** How many rows of a list: 1 to 200. */
export const Limit = z
  .string()
  .regex(/^[1-9]\d{0,2}$/, 'limit is a whole number from 1 to 200.')
  .transform(Number)
  .refine((limit) => limit <= 200, 'limit is a whole number from 1 to 200.')

/** The `next_cursor` of the page before. */
export const Cursor = z.string().min(1).max(1024)
