"use strict";
// Bytes inside scripts: a page opened from a disk may load scripts, and nothing else (kkanji/page/embedded.py).
const embedded = {
  waiting: new Map(),
  arrived: new Map(),
  // Called by the scripts that hold bytes.
  put(name, length, text) {
    this.arrived.set(name, [length, text]);
    (this.waiting.get(name) ?? (() => {}))();
  },
  // The bytes of this name, as soon as they are there.
  async take(name) {
    if (!this.arrived.has(name)) await new Promise((resolve) => this.waiting.set(name, resolve));
    const [length, text] = this.arrived.get(name);
    this.arrived.delete(name);
    return decode(text, length);
  },
  async unzipped(name) {
    const unzip = new Blob([await this.take(name)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(unzip).arrayBuffer());
  },
};

const BLOCK = 160;

// Two bytes a UTF-16 unit; before each block of units is the number that multiplies all of them, modulo 2^16.
function decode(text, length) {
  const units = new Uint16Array(Math.ceil(length / 2));
  let [from, key] = [0, 0];
  for (let at = 0; at < units.length; at++) {
    if (at % BLOCK === 0) key = text.charCodeAt(from++);
    units[at] = Math.imul(text.charCodeAt(from++) + 1, key);
  }
  return new Uint8Array(units.buffer, 0, length);
}
