import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Dialog as Name } from "../state/store.ts";
import { useStore } from "./context.ts";

/** The browser's own dialog: it holds the focus, closes with Escape and gives the focus back. */
export function Dialog({ name, title, children }: { name: Name; title: string; children: ComponentChildren }) {
  const store = useStore();
  const element = useRef<HTMLDialogElement>(null);
  const open = store.dialog.value === name;
  useEffect(() => {
    if (open && !element.current?.open) element.current?.showModal();
    if (!open) element.current?.close();
  }, [open]);
  const close = () => (store.dialog.value = null);
  return (
    <dialog
      ref={element}
      aria-label={title}
      onClose={() => open && close()}
      onClick={(event) => event.target === element.current && close()}
    >
      {open && (
        <div class="sheet">
          <header>
            <h2>{title}</h2>
            <button type="button" class="button quiet" aria-label="Close" onClick={close}>✕</button>
          </header>
          {children}
        </div>
      )}
    </dialog>
  );
}
