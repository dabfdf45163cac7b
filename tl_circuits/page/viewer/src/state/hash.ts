// A value as the part of an address behind "#": JSON, deflated, in base64url, so that a link shows what its sender saw.

const START = "#v1=";
const LARGEST = 1_000_000;

export async function toHash(value: unknown): Promise<string> {
  const packed = await through(new TextEncoder().encode(JSON.stringify(value)), new CompressionStream("deflate-raw"));
  let binary = "";
  for (const byte of packed) binary += String.fromCharCode(byte);
  return START + btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** Null where the hash is none of ours, or damaged. */
export async function fromHash(hash: string): Promise<unknown> {
  if (!hash.startsWith(START) || hash.length > LARGEST) return null;
  try {
    const bytes = fromBase64(hash.slice(START.length).replace(/-/g, "+").replace(/_/g, "/"));
    return JSON.parse(new TextDecoder().decode(await through(bytes, new DecompressionStream("deflate-raw"))));
  } catch {
    return null;
  }
}

/** Whether it says that it is one of ours, of whatever version. */
export function claims(hash: string): boolean {
  return /^#v\d+=/.test(hash);
}

/** Eight digits by which graphs are told apart: of their tokens and nodes, in order. */
export function fingerprint(words: Iterable<string>): string {
  let found = 0x811c9dc5;
  for (const word of words) {
    for (let at = 0; at < word.length; at++) found = Math.imul(found ^ word.charCodeAt(at), 0x01000193);
    found = Math.imul(found ^ 0xffff, 0x01000193);
  }
  return (found >>> 0).toString(16).padStart(8, "0");
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

export async function through(bytes: Uint8Array<ArrayBuffer>, stream: ReadableWritablePair<Uint8Array<ArrayBuffer>, BufferSource>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}
