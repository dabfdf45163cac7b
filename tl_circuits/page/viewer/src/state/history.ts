// What was, what is and what was taken back.

export interface History<T> {
  past: readonly T[];
  now: T;
  future: readonly T[];
  /** Changes of one key that follow each other closely, such as a slider's, are one step. */
  key: string | null;
  at: number;
}

const DEEPEST = 200;
const TOGETHER_MS = 1000;

export function begin<T>(now: T): History<T> {
  return { past: [], now, future: [], key: null, at: 0 };
}

export function step<T>(history: History<T>, now: T, key: string | null, at: number): History<T> {
  const together = key !== null && key === history.key && at - history.at < TOGETHER_MS;
  const past = together ? history.past : [...history.past, history.now].slice(-DEEPEST);
  return { past, now, future: [], key, at };
}

export function undo<T>(history: History<T>): History<T> {
  const now = history.past.at(-1);
  if (now === undefined) return history;
  return { past: history.past.slice(0, -1), now, future: [history.now, ...history.future], key: null, at: 0 };
}

export function redo<T>(history: History<T>): History<T> {
  const [now, ...future] = history.future;
  if (now === undefined) return history;
  return { past: [...history.past, history.now], now, future, key: null, at: 0 };
}
