import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Store } from "../state/store.ts";

export const StoreContext = createContext<Store>(null as unknown as Store);

export function useStore(): Store {
  return useContext(StoreContext);
}
