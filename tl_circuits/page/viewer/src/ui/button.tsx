import type { ComponentChildren } from "preact";

interface Props {
  onClick: () => void;
  children: ComponentChildren;
  title?: string;
  pressed?: boolean;
  disabled?: boolean;
  quiet?: boolean;
  strong?: boolean;
  label?: string;
}

export function Button({ onClick, children, title, pressed, disabled, quiet, strong, label }: Props) {
  return (
    <button
      type="button"
      class={`button${quiet ? " quiet" : ""}${strong ? " strong" : ""}`}
      title={title}
      aria-label={label}
      aria-pressed={pressed}
      disabled={disabled}
      onClick={onClick}
    >
      {children}
    </button>
  );
}
