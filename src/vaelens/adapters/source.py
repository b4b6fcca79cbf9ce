"""A model by its name on the command line: an object of a Python file or module, or a folder of diffusers."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from vaelens.errors import DataError, UsageError

_HOW = "file.py:NAME or package.module:NAME, a folder of diffusers, or a run"


def model_of(name: str) -> nn.Module:
    """The model that `name` stands for, in eval mode.

    Args:
        name: "file.py:NAME" or "package.module:NAME", NAME a model, or a class or function that gives one when it is called
            without arguments, whose code is run; or a folder that diffusers' `save_pretrained` wrote, from which nothing is.

    Raises:
        UsageError: no such file, module or object, or one that is no model.
        DataError: its code fails.
    """
    folder = Path(name)
    if folder.is_dir():
        return _of_diffusers(folder).eval()
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(f"a model is {_HOW}; got {name!r}")
    found: Any = _module(where)
    for part in attribute.split("."):
        if not hasattr(found, part):
            there = (
                [key for key, value in vars(found).items() if isinstance(value, nn.Module)]
                if hasattr(found, "__dict__")
                else []
            )
            raise UsageError(f"{where} has no '{attribute}'" + (f"; its models are: {', '.join(there)}" if there else ""))
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise DataError(f"{name} cannot be made: {_line(error)}") from error
    if not isinstance(found, nn.Module):
        raise UsageError(f"{name} is a {type(found).__name__} and no torch.nn.Module, nor does it give one")
    return found.eval()


def _module(where: str) -> ModuleType:
    file = Path(where)
    if where.endswith(".py"):
        if not file.is_file():
            raise UsageError(f"{where} does not exist")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        beside = str(file.resolve().parent)
        sys.path.insert(0, beside)  # what lies beside it can be imported, as when Python runs it
        sys.modules[file.stem], before = module, sys.modules.get(file.stem)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise DataError(f"{where} cannot be run: {_line(error)}") from error
        finally:
            sys.path.remove(beside)
            if before is not None:
                sys.modules[file.stem] = before
        return module
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module {error.name}; a model is {_HOW}") from error
    except Exception as error:
        raise DataError(f"{where} cannot be imported: {_line(error)}") from error
    finally:
        sys.path.remove(here)


def _of_diffusers(folder: Path) -> nn.Module:
    file = folder / "config.json"
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        kind = None
    if not isinstance(kind, str):
        raise UsageError(f"{folder} is no run and no folder of diffusers, which has a config.json with a _class_name")
    try:
        import diffusers
    except ImportError as error:
        raise UsageError(f"{folder} is a model of diffusers, which is not installed: pip install diffusers") from error
    if not hasattr(diffusers, kind):
        raise UsageError(f"{file} names the class {kind}, which diffusers {diffusers.__version__} has not")
    try:
        model = getattr(diffusers, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:
        raise DataError(f"{folder} cannot be loaded: {_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{folder} holds a {kind}, which is no model; name the folder of its autoencoder, such as vae/")
    return model


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}"
