/** One thing that must hold of the project. */
export type Check = {
  /** What holds, as a claim. */
  name: string
  /** Every way in which it does not hold, one a line; none when it does. */
  run(): Promise<string[]>
}
