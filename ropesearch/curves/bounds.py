"""The lower bound that a context length puts on a base."""

from ropesearch.core import checks

from .waveforms import waveform_samples

LARGEST_EXPONENT = 12


def base_lower_bound(length: int, head_dim: int = 128) -> float | None:
    """Return the smallest base whose waveform is negative at no distance below a context length.

    Below it, a head of this one base gives less to a key like its query than to a random one, at some distance of the
    context: a lower bound for one head, not for a set, in which another head may be positive there.

    Parameters
    ----------
    length : int
        Context in tokens, at least 2; distances are 0 … length − 1.
    head_dim : int
        Channels per head, even.

    Returns
    -------
    float or None
        Of the bases with two significant digits. A waveform does not rise with its base at every distance, so some
        larger bases fail again. None if all up to 1e12 fail, as for a head_dim of 2.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.

    References
    ----------
    Men et al., arXiv:2405.14591, section 4: Σ_i cos(m·θ_i) ≥ 0 for all m up to the length.
    """
    last = checks.integer("length", length, 2) - 1
    d = checks.head_dim(head_dim)
    windows = [n for n in (255, 4095, 65535) if n < last] + [last]
    for exponent in range(LARGEST_EXPONENT):
        for digits in range(10, 100):
            base = float(digits * 10**exponent) / 10
            if base > 1 and all(waveform_samples(base, d, 0, window).min() >= 0 for window in windows):
                return base
    return None
