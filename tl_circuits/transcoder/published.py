"""Public transcoders that SAELens does not list, and the models that transcoders are published for.

Sources: README of circuit-tracer ("Available transcoders"), config.yaml and the shapes of W_enc_0 in each repository,
the model cards of Gemma Scope 2, and config.json of each model. What none of them says is left out.
"""

from tl_circuits.transcoder.release import Release, Variant

HUB_NAMES = {
    "gemma-2-2b": "google/gemma-2-2b",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}
"""Models by SAELens's names for them, where these are not the hub's."""

N_LAYERS = {
    "google/gemma-2-2b": 26,
    "google/gemma-3-270m": 18,
    "google/gemma-3-270m-it": 18,
    "google/gemma-3-1b-pt": 26,
    "google/gemma-3-1b-it": 26,
    "google/gemma-3-4b-pt": 34,
    "google/gemma-3-4b-it": 34,
    "google/gemma-3-12b-pt": 48,
    "google/gemma-3-12b-it": 48,
    "google/gemma-3-27b-pt": 62,
    "google/gemma-3-27b-it": 62,
    "meta-llama/Llama-3.2-1B": 16,
    "openai/gpt-oss-20b": 24,
    "Qwen/Qwen3-0.6B": 28,
    "Qwen/Qwen3-0.6B-Base": 28,
    "Qwen/Qwen3-1.7B": 28,
    "Qwen/Qwen3-1.7B-Base": 28,
    "Qwen/Qwen3-4B": 36,
    "Qwen/Qwen3-8B": 36,
    "Qwen/Qwen3-14B": 40,
}
"""How many layers each model has, by its name on the hub."""

N_FEATURES = {"mntss/clt-gemma-2-2b-2.5M": 98_304}
"""How many features each layer has, by repository, for those that SAELens lists and whose names do not say."""


def _circuit_tracer(
    repository: str,
    model: str,
    *,
    read: str | None = "hook_resid_mid",
    n_features: int | None = None,
    cross_layer: bool = True,
) -> Release:
    """A repository in circuit-tracer's layout. Its config.yaml says where it reads and writes; here it is for show."""
    n_layers = N_LAYERS[model]
    return Release(
        repository,
        repository,
        model,
        "cross-layer" if cross_layer else "per-layer",
        read,
        None if read is None else "hook_mlp_out",
        n_layers,
        (Variant(layers=tuple(range(n_layers)), n_features=n_features),),
        known_by="tl_circuits",
    )


def _gemma_scope_2(size: str, model: str) -> Release:
    """Its variants are widths and sparsities, with or without an affine skip, such as width_262k_l0_medium_affine."""
    repository = f"google/gemma-scope-2-{size}/clt"
    return Release(
        repository,
        repository,
        model,
        "cross-layer",
        "mlp.hook_in",
        "hook_mlp_out",
        N_LAYERS[model],
        known_by="tl_circuits",
    )


PUBLISHED = (
    _circuit_tracer("mntss/clt-gemma-2-2b-426k", "google/gemma-2-2b", n_features=16_384),
    _circuit_tracer("mntss/clt-llama-3.2-1b-524k", "meta-llama/Llama-3.2-1B", n_features=32_768),
    _circuit_tracer("mntss/clt-131k", "openai/gpt-oss-20b", n_features=131_072),
    _circuit_tracer("bluelightai/clt-qwen3-0.6b-base-20k", "Qwen/Qwen3-0.6B-Base", read=None, n_features=20_480),
    _circuit_tracer("bluelightai/clt-qwen3-1.7b-base-20k", "Qwen/Qwen3-1.7B-Base", read=None, n_features=20_480),
    _circuit_tracer("mntss/transcoder-Llama-3.2-1B", "meta-llama/Llama-3.2-1B", n_features=131_072, cross_layer=False),
    _circuit_tracer(
        "mwhanna/gemma-scope-transcoders", "google/gemma-2-2b", read="ln2.hook_normalized", cross_layer=False
    ),
    _circuit_tracer(
        "mntss/gemma-scope-transcoders", "google/gemma-2-2b", read="ln2.hook_normalized", cross_layer=False
    ),
    _gemma_scope_2("270m-pt", "google/gemma-3-270m"),
    _gemma_scope_2("270m-it", "google/gemma-3-270m-it"),
    _gemma_scope_2("1b-pt", "google/gemma-3-1b-pt"),
    _gemma_scope_2("1b-it", "google/gemma-3-1b-it"),
)
