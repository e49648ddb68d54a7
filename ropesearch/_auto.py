"""Makes transformers' Auto classes know the models of `modeling_harpe`, once both are there, and imports neither.

`import ropesearch` loads nothing heavy, and transformers may come before or after it, or never. So the module that
holds the table of model types is awaited, and the table is told our types without their classes: those are imported,
and the models registered, when one of the types is first looked up. Earlier would be too early in any case, for
transformers imports that table in the middle of importing the classes that ours derive from.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODELS = f"{__package__}.modeling_harpe"
TABLE = "transformers.models.auto.configuration_auto"
MODEL_TYPES = ("harpe_llama", "harpe_mistral", "harpe_qwen2", "harpe_qwen3")


class _OnDemand(dict[str, Any]):
    """The registered part of the table of model types, with ours, whose classes come when they are asked for."""

    def __contains__(self, key: object) -> bool:
        return key in MODEL_TYPES or super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        if key in MODEL_TYPES and not super().__contains__(key):
            import_module(MODELS)  # which is registered as soon as it is imported
        return super().__getitem__(key)


def _announce(table: ModuleType) -> None:
    known = getattr(getattr(table, "CONFIG_MAPPING", None), "_extra_content", None)
    if type(known) is dict:  # else it is ours already, or a transformers built otherwise, where the flag is needed
        table.CONFIG_MAPPING._extra_content = _OnDemand(known)


def _register(models: ModuleType) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    for config, _, _, model, causal_lm in models.FAMILIES.values():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        AutoModelForCausalLM.register(config, causal_lm, exist_ok=True)


_AFTER: dict[str, Callable[[ModuleType], None]] = {TABLE: _announce, MODELS: _register}


class _AfterImport(MetaPathFinder):
    """Calls a function with a module of `_AFTER` when it has just been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _AFTER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                _AFTER[fullname](module)

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]  # of this one loader
        return spec


def install() -> None:
    """Wait for the modules that are not imported yet, and see to those that are."""
    if not any(type(finder).__name__ == _AfterImport.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, tell in _AFTER.items():
        if name in sys.modules:
            tell(sys.modules[name])
