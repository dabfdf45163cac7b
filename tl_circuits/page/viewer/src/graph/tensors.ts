// The tensors of a safetensors file: an 8-byte length, a JSON header, then the numbers.

export type Tensor = Float64Array | Int32Array | Uint8Array;

export interface Tensors {
  metadata: Record<string, string>;
  columns: Map<string, Tensor>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const WIDTH: Record<string, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, BOOL: 1 };

/** Throws an Error that says what is wrong where the bytes are no such file. */
export function readTensors(bytes: Uint8Array): Tensors {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.byteLength >= 8 ? Number(view.getBigUint64(0, true)) : Infinity;
  if (8 + length > bytes.byteLength) throw new Error(`the file ends after ${bytes.byteLength} bytes, in its header`);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, Entry>;
  const columns = new Map<string, Tensor>();
  const metadata = (header["__metadata__"] ?? {}) as unknown as Record<string, string>;
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, stop] = entry.data_offsets;
    const width = WIDTH[entry.dtype];
    const count = entry.shape.reduce((product, size) => product * size, 1);
    if (!width || stop - start !== count * width || 8 + length + stop > bytes.byteLength) {
      throw new Error(`${name} is ${entry.dtype} [${entry.shape}] at bytes ${start} to ${stop}, which cannot be`);
    }
    columns.set(name, numbers(bytes.slice(8 + length + start, 8 + length + stop).buffer, entry.dtype));
  }
  return { metadata, columns };
}

function numbers(buffer: ArrayBuffer, dtype: string): Tensor {
  switch (dtype) {
    case "F64":
      return new Float64Array(buffer);
    case "F32":
      return Float64Array.from(new Float32Array(buffer));
    case "BF16": {
      const wide = Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16);
      return Float64Array.from(new Float32Array(wide.buffer));
    }
    case "F16":
      return Float64Array.from(new Uint16Array(buffer), half);
    case "I64": {
      const words = new Int32Array(buffer);
      return Float64Array.from({ length: words.length / 2 }, (_, i) => words[2 * i + 1] * 2 ** 32 + (words[2 * i] >>> 0));
    }
    case "I32":
      return new Int32Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}

function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
