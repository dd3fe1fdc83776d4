import { mount } from './mount.tsx'

const root = document.getElementById('rollcall')
if (root) mount(root)
