"""What installed packages provide: their entry points, by group and name, and their models, in files like ours.

Reading entry points takes 20 ms, so nothing here is asked before a name turns up that is not one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.profiles.fields import FactError
from batchgen.profiles.profile import Profile

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

CODECS = "batchgen.providers"  # name of a provider = "package:Class"
MODELS = "batchgen.models"  # name of a provider = "package:FILE.yaml"
EMULATORS = "batchgen.emulators"  # name of a provider = "package.module:Class"


@lru_cache(maxsize=8)
def installed(group: str) -> Mapping[str, EntryPoint]:
    """What packages have registered in a group, by name."""
    from importlib.metadata import entry_points  # 20 ms

    return {point.name: point for point in sorted(entry_points(group=group), key=package_of, reverse=True)}


def package_of(point: EntryPoint) -> str:
    """The name and version of the package that registered an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


@dataclass(frozen=True, slots=True)
class PackageModels:
    """The models of all installed packages.

    profiles: in the order of the packages' names. ids: a pattern of model ids, and the provider they belong to.
    problems: why a package's file cannot be used; none of its models is known then.
    """

    profiles: tuple[Profile, ...]
    ids: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


@lru_cache(maxsize=1)
def package_models() -> PackageModels:
    import yaml  # not in the processes of checks, which only ask what is registered

    from batchgen.profiles.file import built_in_profiles, line_of, load_file, models_of  # this imports yaml too

    profiles, ids, problems = list[Profile](), list[tuple[str, str]](), list[str]()
    for name, point in sorted(installed(MODELS).items()):
        try:
            path = _file_of(point.value)
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ImportError, ValueError) as error:
            problems.append(f"{package_of(point)}: {MODELS}: {name} = {point.value!r}: there is no such file ({error})")
            continue
        where = f"{package_of(point)}: {path.parent.name}/{path.name}"
        try:
            file = load_file(text)
            found = list(models_of(file, built_in_profiles()))
            _check_providers(file, found, {profile.provider for profile in built_in_profiles().values()})
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            problems.append(f"{where}{line}: {error.problem or error.context}")
        except yaml.YAMLError as error:
            problems.append(f"{where}: {' '.join(str(error).split())}")
        except FactError as error:
            problems.append(f"{where}:{line_of(text, error.path)}: {_without_numbers(error)}")
        else:
            profiles += found
            ids += [(str(file["ids"]), str(file["provider"]))] if file.get("ids") else []
    return PackageModels(tuple(profiles), tuple(ids), tuple(problems))


def guess_package(model: str) -> str | None:
    """The provider of the package whose `ids` match the whole name."""
    return next((name for pattern, name in package_models().ids if re.fullmatch(pattern, model, re.DOTALL)), None)


def _file_of(value: str) -> Path:
    """The path of a package's file, found without importing the package.

    value: `package:FILE`. Raises ImportError, ValueError.
    """
    from importlib.util import find_spec  # imported along with the entry points

    module, _, name = value.partition(":")
    spec = find_spec(module.strip())
    if spec is None or not name.strip():
        raise ImportError(f"{module} is not installed" if name else "expected package:FILE")
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0] if folders else Path(spec.origin or "").parent, name.strip())


def _check_providers(file: Mapping[str, Any], found: Iterable[Profile], built_in: Set[str]) -> None:
    """Refuse a provider that nobody has registered. Raises FactError."""
    known = built_in | installed(CODECS).keys()
    named: list[tuple[tuple[str, ...], str]] = [(("provider",), file["provider"])]
    named += [(("models", str(n), "provider"), profile.provider) for n, profile in enumerate(found)]
    for path, provider in named:
        if provider not in known:
            raise FactError(path, f"there is no provider {provider!r}; register its codec under {CODECS}")


def _without_numbers(error: FactError) -> str:
    return ": ".join((*(key for key in error.path if not key.isdecimal()), error.message))
