"""What an encoder returned: which of it is the mean and which the log variance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaelens.adapters.contents import Key, example, gaussian, is_distribution, is_nameless, known, names_of, pick, told
from vaelens.adapters.entrance import Entrance
from vaelens.errors import UsageError

# From what is given to the log variance.
SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "logvar": lambda t: t,
    "log_std": lambda t: 2 * t,
    "variance": torch.log,
    "std": lambda t: 2 * torch.log(t),
}
# Names in lower case without underscores, and without a leading or trailing "z", "q", "latent" or "posterior".
_MEANS = {"mean", "mu", "loc", "means"}
_NAMES = {
    "logvar": {"logvar", "logvariance", "logcovariance", "logsigma2", "logsigmasq", "logsigmasquared", "lnvar", "logvars"},
    "log_std": {"logstd", "logscale", "logsigma", "logstddev"},
    "variance": {"variance", "var", "sigma2", "covariance", "sigmasq"},
    "std": {"std", "scale", "sigma", "stddev", "stdev"},
}


@dataclass
class Reading:
    """Where mean and spread are in what an encoder returns.

    Attributes:
        name: of the encoder, for messages.
        mean: see `adapt`; None: by its name.
        spread: which of `SPREADS`, and where; None: by its name.
        deterministic: there is no spread.
        heads: modules that make mean and log variance of the one output.
    """

    name: str
    mean: Key | None = None
    spread: tuple[str, Key] | None = None
    deterministic: bool = False
    heads: tuple[nn.Module, nn.Module] | None = None
    _settled: bool = False  # whether a bare pair was seen to be no mean and standard deviation, and no sample
    _by_name: bool = False  # whether a spread was found by its name, so that there is no such pair

    @property
    def settled(self) -> bool:
        """Whether it has no bare pair to look at, or has looked: random numbers drawn while encoding tell nothing then."""
        return self._settled or self._by_name or self.deterministic or self.spread is not None or self.heads is not None

    @classmethod
    def asked(
        cls,
        found: Entrance,
        mean: Key | None,
        spreads: Mapping[str, Key | None],
        heads: tuple[str, str] | None,
        deterministic: bool,
    ) -> Reading:
        """From the arguments of `adapt`, and from what is known of the model where they are silent.

        Raises:
            UsageError: more than one spread, one without a mean or the other way round, or heads that are not there.
        """
        given = {kind: key for kind, key in spreads.items() if key is not None}
        if len(given) + deterministic > 1:
            ways = [*given, *(["deterministic"] if deterministic else [])]
            raise UsageError(f"the spread is given in one way, not in {len(ways)}: {', '.join(ways)}")
        for key in (mean, *given.values()):
            _check_key(key)
        if heads is not None:
            if mean is not None or given or deterministic:
                raise UsageError("heads make the mean and the log variance; leave out mean and the spread, or heads")
            return cls(found.name, heads=_heads(found.owner, heads))
        if given and mean is None and found.mean is None:
            raise UsageError(f"{next(iter(given))} says where the spread is; say where the mean is, too: mean=...")
        if mean is not None and not given and not deterministic and found.spread is None and not _is_name(mean):
            raise UsageError("mean says where the mean is; say where the log variance is, too: logvar=... (or std, ...)")
        spread = next(iter(given.items()), None if deterministic else found.spread)
        return cls(found.name, found.mean if mean is None else mean, spread, deterministic)

    def __call__(self, returned: Any, drew: bool | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (B, D, ...), of what the encoder returned.

        Args:
            returned: by the encoder.
            drew: whether it drew random numbers in eval mode; None: nobody looked.

        Raises:
            UsageError: they cannot be told apart; the message has what was returned and what to say.
        """
        if self.heads is not None:
            mean, spread, kind = *(self._by_head(head, returned) for head in self.heads), "logvar"
        else:
            source = returned if self.mean is not None and not _is_name(self.mean) else self._named(returned)
            mean = self._mean(source)
            self._check_numbers("mean", mean)
            if self.deterministic:
                return mean, torch.full_like(mean, -torch.inf)
            kind, spread = self._spread(source, drew)
        self._check_numbers(kind, spread)
        if _spreads_over(spread, mean):
            spread = spread.expand_as(mean)
        if mean.ndim < 2 or mean.shape != spread.shape:
            raise UsageError(
                f"{self.name} returns a mean {tuple(mean.shape)} and a {kind} {tuple(spread.shape)}; "
                "both are (B, D) of one shape, or (B, C, h, w)"
            )
        if kind in ("std", "variance") and not torch.compiler.is_compiling() and bool((spread < 0).any()):
            raise UsageError(f"the {kind} that {self.name} returns has numbers below 0; is it a log variance (logvar=)?")
        return mean, SPREADS[kind](spread)

    def _check_numbers(self, what: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise UsageError(f"the {what} that {self.name} returns is {told(tensor)}, and no tensor of numbers")

    def _by_head(self, head: nn.Module, returned: Any) -> Tensor:
        if not isinstance(returned, Tensor):
            raise UsageError(f"heads take the one tensor that an encoder returns; {self.name} returns {told(returned)}")
        flat = isinstance(head, nn.Linear) and returned.ndim > 2 and returned[0].numel() == head.in_features
        result: Tensor = head(returned.flatten(1) if flat else returned)
        return result

    def _named(self, returned: Any) -> Any:
        """The part of what was returned that has names to go by, or the pair of mean and log variance itself."""
        if is_nameless(returned):
            if len(returned) == 1:
                return self._named(returned[0])
            tensors = [isinstance(part, Tensor) for part in returned]
            if len(returned) == 2 and all(tensors) and returned[0].shape == returned[1].shape:
                return returned
            speaking = [part for part in returned if names_of(part)]
            if len(speaking) == 1 and not isinstance(speaking[0], Tensor):
                return self._named(speaking[0])
            raise self._ask(returned)
        if isinstance(returned, Tensor):
            raise self._ask(returned)
        if is_distribution(returned):
            return gaussian(self.name, returned) if self.mean is None else returned
        if self.mean is not None or known(returned, _MEANS):
            return returned
        inner = [part for part in names_of(returned).values() if known(part, _MEANS) or is_distribution(part)]
        if len(inner) == 1:
            return self._named(inner[0])
        raise self._ask(returned)

    def _mean(self, source: Any) -> Any:
        if self.mean is not None:
            return pick(self.name, source, self.mean)
        if is_nameless(source):
            return source[0]
        found = known(source, _MEANS)
        if len(found) != 1:
            raise UsageError(f"{self.name} returns several means: {', '.join(found)}; say which: mean='{next(iter(found))}'")
        return next(iter(found.values()))

    def _spread(self, source: Any, drew: bool | None) -> tuple[str, Any]:
        if self.spread is not None:
            return self.spread[0], pick(self.name, source, self.spread[1])
        if is_nameless(source):
            self._check_pair(source[1], drew)
            return "logvar", source[1]
        if is_distribution(source):  # whose mean was asked for by name
            return "std", gaussian(self.name, source)["std"]
        for kind, names in _NAMES.items():
            found = known(source, names)
            if len(found) > 1:
                raise UsageError(f"{self.name} returns several of {kind}: {', '.join(found)}; say which: {kind}='...'")
            if found:
                self._by_name = True
                return kind, next(iter(found.values()))
        raise UsageError(
            f"{self.name} returns a mean and no log variance: {told(source)}; say where it is (logvar=, std=, variance= or "
            "log_std=), or deterministic=True where the model has none"
        )

    def _check_pair(self, second: Tensor, drew: bool | None) -> None:
        """Some return (mean, standard deviation): a log variance above 0 throughout is hardly one. Some (sample, mean)."""
        if self._settled or torch.compiler.is_compiling() or not second.numel():
            return
        if bool((second > 0).all()):
            raise UsageError(
                f"{self.name} returns two tensors, of which the second is above 0 throughout, as a standard deviation is and a "
                "log variance seldom; say which it is: mean=0 with logvar=1, std=1 or variance=1"
            )
        if drew:
            raise UsageError(
                f"{self.name} draws random numbers and returns two tensors, of which one may be a sample; say which is what: "
                "mean=0, logvar=1 where they are that; or what else gives mean and log variance: encode=..., heads=..."
            )
        self._settled = drew is not None

    def _ask(self, returned: Any) -> UsageError:
        if isinstance(returned, Tensor):
            ways = (
                "say which columns are what: mean=slice(0, D), logvar=slice(D, 2 * D); or which modules make them of it: "
                "heads=('...', '...'); or deterministic=True, mean=slice(None) where it is the code"
            )
        else:
            ways = "say which is what: mean=..., and logvar=..., std=..., variance=... or log_std=..." + example(returned)
        return UsageError(f"{self.name} returns {told(returned)}; {ways}")


def _spreads_over(spread: Tensor, mean: Tensor) -> bool:
    """Whether a spread is one for all images or all latents of a mean (B, D, ...); of one axis it might be either."""
    if spread.ndim == 0:
        return True
    return spread.ndim == mean.ndim and all(one in (1, all_) for one, all_ in zip(spread.shape, mean.shape, strict=True))


def _is_name(key: Any) -> bool:
    return isinstance(key, str)


def _check_key(key: Any) -> None:
    parts = key if isinstance(key, tuple) else (key,)
    if key is not None and not (parts and all(isinstance(p, int | str | slice) and not isinstance(p, bool) for p in parts)):
        raise UsageError(f"where something is, is a name, an index, a slice or a tuple of these, got {key!r}")


def _heads(owner: nn.Module, heads: Any) -> tuple[nn.Module, nn.Module]:
    if not isinstance(heads, tuple | list) or len(heads) != 2 or not all(isinstance(name, str) for name in heads):
        raise UsageError(f"heads are the names of two modules, of the mean and of the log variance, got {heads!r}")
    modules = dict(owner.named_modules(remove_duplicate=False))
    for name in heads:
        if not name or name not in modules:
            there = ", ".join(name for name, _ in owner.named_children())
            raise UsageError(f"{type(owner).__name__} has no module '{name}'; there are: {there}")
    return modules[heads[0]], modules[heads[1]]
