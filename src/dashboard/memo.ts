import { Component, type ComponentChildren, type FunctionComponent, h } from 'preact'

/** A component that is drawn anew only when one of its properties is another object than before. */
export function memo<P extends object>(draw: FunctionComponent<P>): FunctionComponent<P> {
  class Memo extends Component<P> {
    override shouldComponentUpdate(next: Readonly<P>): boolean {
      const keys = new Set([...Object.keys(this.props), ...Object.keys(next)]) as Set<keyof P>
      for (const key of keys) {
        if (key !== ('children' as keyof P) && this.props[key] !== next[key]) return true
      }
      return false
    }
    override render(): ComponentChildren {
      return h(draw as FunctionComponent<object>, this.props)
    }
  }
  return Memo as unknown as FunctionComponent<P>
}
