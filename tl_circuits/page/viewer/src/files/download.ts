// A file for the person who looks; nothing is sent anywhere.

export function download(name: string, content: string | Blob | Uint8Array<ArrayBuffer>, type: string): void {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Asks for a file; nothing happens where the person thinks better of it. */
export function choose(accept: string, take: (text: string) => void): void {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = accept;
  input.hidden = true;
  input.setAttribute("aria-label", "File to read");
  input.addEventListener("change", async () => {
    const file = input.files?.[0];
    input.remove();
    if (file) take(await file.text());
  });
  input.addEventListener("cancel", () => input.remove());
  document.body.append(input);
  input.click();
}

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
