import { useSignal } from "@preact/signals";
import { FEATURE, visible } from "../graph/graph.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { ask } from "./host.ts";

/** An intervention to be run by the kernel that shows the page. */
export function AskForm() {
  const store = useStore();
  const what = useSignal("");
  const scale = useSignal("0");
  const { supernodes, pins } = store.work.value;
  const selected = store.selected.value === null ? [] : [store.graph.names[store.selected.value]];
  const choices = [
    ...supernodes.map((one) => ({ name: one.label, members: one.members })),
    { name: "all that is pinned", members: pins },
    { name: "the selected node", members: selected },
  ].map((one) => ({ ...one, members: one.members.filter((name) => store.graph.nodes.kind[store.graph.rowOf.get(name) ?? -1] === FEATURE) })).filter((one) => one.members.length);
  const chosen = choices.find((one) => one.name === what.value) ?? choices[0];
  const by = Number(scale.value);
  const run = () => {
    ask({ name: `${chosen!.name} × ${by}`, features: chosen!.members, scale: by });
    store.say("Asked the kernel.");
  };
  return (
    <div class="ask" role="group" aria-label="Intervene">
      {choices.length ? (
        <>
          <label>Scale <select value={chosen?.name} onChange={(event) => (what.value = event.currentTarget.value)}>{choices.map((one) => <option key={one.name} value={one.name}>{visible(one.name)}</option>)}</select></label>
          <label>by <input type="number" step="any" value={scale.value} onInput={(event) => (scale.value = event.currentTarget.value)} /></label>
          <Button strong disabled={scale.value.trim() === "" || !Number.isFinite(by)} onClick={run}>Run</Button>
        </>
      ) : <p class="note">Pin or group features to act on them.</p>}
    </div>
  );
}
