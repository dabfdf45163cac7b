// A queue that gives the largest priority first, and of equal ones the first that came.

export class Heap<T> {
  private readonly items: { priority: number; order: number; value: T }[] = [];
  private order = 0;

  get size(): number {
    return this.items.length;
  }

  push(priority: number, value: T): void {
    const items = this.items;
    items.push({ priority, order: this.order++, value });
    for (let at = items.length - 1; at > 0; ) {
      const parent = (at - 1) >> 1;
      if (!this.before(at, parent)) break;
      [items[at], items[parent]] = [items[parent], items[at]];
      at = parent;
    }
  }

  pop(): T {
    const items = this.items;
    const first = items[0];
    const last = items.pop()!;
    if (items.length) {
      items[0] = last;
      for (let at = 0; ; ) {
        let next = at;
        for (const child of [2 * at + 1, 2 * at + 2]) if (child < items.length && this.before(child, next)) next = child;
        if (next === at) break;
        [items[at], items[next]] = [items[next], items[at]];
        at = next;
      }
    }
    return first.value;
  }

  private before(a: number, b: number): boolean {
    const [left, right] = [this.items[a], this.items[b]];
    return left.priority > right.priority || (left.priority === right.priority && left.order < right.order);
  }
}
