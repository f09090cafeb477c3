"""Procedural sound events: fourteen classes that differ in the way real sounds do, each with random parameters.

Each function takes a generator and a number of samples T and returns (T,) float32 at 16 kHz, of any level. Repeated
sounds (beeps, drops, beats, ...) are written for all their repetitions at once: `grain` tells each sample to which
repetition it belongs, `seconds` how long that one has been sounding. No loop runs over samples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from sslam.audio import SAMPLE_RATE, Waveform

TABLE_SIZE = 4096  # samples of one period in a wave table; without interpolation its noise lies 70 dB below the tone
TWO_PI = np.float32(2 * np.pi)


def white_noise(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Uniform white noise of unit variance: five times as fast as Gaussian, and the same once it is filtered."""
    integers = rng.integers(-(2**15), 2**15, num_samples, dtype=np.int16)
    return integers.astype(np.float32) * np.float32(np.sqrt(3) / 2**15)


def colored_noise(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Background noise whose spectrum falls by something between 0 and 6 dB per octave above a random corner."""
    noise = white_noise(rng, num_samples)
    pole, rest = rng.uniform(0.5, 0.98), rng.uniform(0, 0.15)
    # One pole, plus `rest` of the noise itself.
    zeros = np.array([1 - pole + rest, -pole * rest], np.float32)
    return _float32(signal.lfilter(zeros, np.array([1, -pole], np.float32), noise))


def pure_beeps(rng: np.random.Generator, num_samples: int) -> Waveform:
    """A sine switched on and off, like an alarm clock or a reversing lorry."""
    period = rng.uniform(0.15, 0.6)
    _, seconds = _grains(_regular(num_samples, period), num_samples)
    on = np.clip((period * rng.uniform(0.4, 0.7) - seconds) * 100, 0, 1) * np.clip(seconds * 100, 0, 1)
    return _float32(on * np.sin(TWO_PI * _ramp(rng.uniform(500, 3500), num_samples)))


def harmonic_tone(rng: np.random.Generator, num_samples: int) -> Waveform:
    """A sustained tone with overtones and vibrato, like a voice or a bowed string."""
    seconds = _seconds(num_samples)
    vibrato = rng.uniform(0.005, 0.03) * np.sin(TWO_PI * np.float32(rng.uniform(4, 7)) * seconds)
    overtones = rng.uniform(0.3, 1, 10) / np.arange(1, 11) ** rng.uniform(0.5, 1.5)
    return _wave_table(overtones, _phase(rng.uniform(150, 700) * (1 + vibrato)))


def siren(rng: np.random.Generator, num_samples: int) -> Waveform:
    """A tone with a few overtones whose pitch swings slowly and far."""
    swing = np.sin(TWO_PI * (np.float32(rng.uniform(0.3, 2.5)) * _seconds(num_samples) + np.float32(rng.random())))
    center = rng.uniform(700, 1200)
    return _wave_table(np.array([1, 0.5, 0.35, 0.2]), _phase(center * (1 + rng.uniform(0.25, 0.45) * swing)))


def sweep(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Exponential sine sweeps over several octaves, up or down."""
    period = rng.uniform(0.3, 1.5)
    _, seconds = _grains(_regular(num_samples, period), num_samples)
    low, high = rng.uniform(150, 400), rng.uniform(3000, 7000)
    first, last = (low, high) if rng.random() < 0.5 else (high, low)
    return _float32(
        np.sin(TWO_PI * _phase(np.float32(first) * np.exp(seconds * np.float32(np.log(last / first) / period))))
    )


def noise_bursts(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Short, decaying bursts of band-limited noise, like a hi-hat, a sawing or a shaker."""
    _, seconds = _grains(_regular(num_samples, rng.uniform(0.12, 0.5)), num_samples)
    noise = _band_noise(rng, num_samples, rng.uniform(2000, 6000), rng.uniform(1000, 3000))
    return _float32(noise * np.exp(-np.float32(rng.uniform(12, 40)) * seconds))


def wind(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Low, slowly swelling noise."""
    noise = _band_noise(rng, num_samples, rng.uniform(100, 400), rng.uniform(50, 200))
    gusts = np.sin(TWO_PI * (np.float32(rng.uniform(0.2, 1)) * _seconds(num_samples) + np.float32(rng.random())))
    return _float32(noise * (1 + np.float32(0.8) * gusts))


def engine(rng: np.random.Generator, num_samples: int) -> Waveform:
    """A fast, slightly irregular train of low resonances: an idling motor."""
    grain, seconds = _grains(_irregular(rng, num_samples, rng.uniform(0.018, 0.045), 0.1), num_samples)
    strength = rng.uniform(0.6, 1, int(grain[-1]) + 1).astype(np.float32)[grain]
    tone = np.sin(TWO_PI * np.float32(rng.uniform(80, 250)) * seconds)
    return _float32(strength * tone * np.exp(-np.float32(rng.uniform(40, 90)) * seconds))


def clicks(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Sharp, dry clicks at a steady rate: a clock, a keyboard, a Geiger counter."""
    _, seconds = _grains(_irregular(rng, num_samples, rng.uniform(0.06, 0.3), rng.uniform(0, 0.4)), num_samples)
    ring = np.sin(TWO_PI * np.float32(rng.uniform(3000, 6500)) * seconds)
    return _float32(ring * np.exp(-np.float32(rng.uniform(500, 1500)) * seconds))


def drum(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Beats of a falling, decaying low tone with a noisy attack."""
    _, seconds = _grains(_regular(num_samples, rng.uniform(0.25, 0.8)), num_samples)
    frequency, drop = np.float32(rng.uniform(50, 110)), np.float32(rng.uniform(0.5, 2))
    # Phase of a pitch that falls from (1 + drop) times the frequency with 40 per second.
    tone = np.sin(TWO_PI * frequency * (seconds + drop / 40 * (1 - np.exp(-40 * seconds))))
    decay = np.exp(-np.float32(rng.uniform(8, 20)) * seconds)
    return _float32(tone * decay + np.float32(0.3) * white_noise(rng, num_samples) * decay**8)


def buzz(rng: np.random.Generator, num_samples: int) -> Waveform:
    """A harsh tone rich in overtones with a fast, deep tremolo: a door buzzer, an insect."""
    tremolo = np.sin(TWO_PI * np.float32(rng.uniform(15, 45)) * _seconds(num_samples))
    overtones = np.ones(30) * rng.uniform(0.5, 1, 30)
    tone = _wave_table(overtones, _ramp(rng.uniform(90, 220), num_samples))
    return _float32(tone * (1 + np.float32(rng.uniform(0.6, 1)) * tremolo))


def plucked_string(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Karplus-Strong notes (Karplus and Strong 1983), each period the last one smoothed.

    Smoothing k times is the k-th power of the smoother's frequency response: all periods of a note are one inverse FFT.
    """
    note_samples = int(rng.uniform(0.25, 0.7) * SAMPLE_RATE)
    notes = []
    for _ in range(-(-num_samples // note_samples)):
        length = int(SAMPLE_RATE / rng.uniform(90, 400))
        response = 0.997 * np.cos(np.pi * np.fft.rfftfreq(length)).astype(np.float32)
        periods = np.arange(-(-note_samples // length), dtype=np.float32)
        spectrum = np.fft.rfft(white_noise(rng, length)).astype(np.complex64)
        spectrum[0] = 0
        # exp(k log r) is much cheaper than a power with an array in both places.
        decay = np.exp(periods[:, None] * np.log(np.maximum(response, 1e-6)))
        notes.append(np.fft.irfft(spectrum * decay, length).astype(np.float32).ravel()[:note_samples])
    return np.concatenate(notes)[:num_samples]


def bird(rng: np.random.Generator, num_samples: int) -> Waveform:
    """High, short, fast-gliding whistles."""
    period = rng.uniform(0.07, 0.25)
    grain, seconds = _grains(_irregular(rng, num_samples, period, 0.3), num_samples)
    size = int(grain[-1]) + 1
    pitch = rng.uniform(3000, 5500, size).astype(np.float32)[grain]
    glide = (rng.choice([-1, 1], size) * rng.uniform(5e3, 2e4, size)).astype(np.float32)[grain]
    length = np.float32(period * rng.uniform(0.5, 0.8))
    envelope = np.sin(np.pi * np.clip(seconds / length, 0, 1, dtype=np.float32))
    return _float32(envelope * np.sin(TWO_PI * seconds * (pitch + glide / 2 * seconds)))


def water_drops(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Bubbles at irregular times: decaying tones whose pitch rises (van den Doel 2005)."""
    grain, seconds = _grains(_irregular(rng, num_samples, rng.uniform(0.08, 0.25), 0.8), num_samples)
    size = int(grain[-1]) + 1
    pitch = rng.uniform(500, 2200, size).astype(np.float32)[grain]
    decay = rng.uniform(25, 60, size).astype(np.float32)[grain]
    return _float32(np.exp(-decay * seconds) * np.sin(TWO_PI * pitch * seconds * (1 + np.float32(4) * seconds)))


def bell(rng: np.random.Generator, num_samples: int) -> Waveform:
    """Struck metal: inharmonic partials that ring long, the high ones less so."""
    _, seconds = _grains(_regular(num_samples, rng.uniform(0.8, 2)), num_samples)
    base = rng.uniform(300, 900)
    bell_tone = np.zeros(num_samples, np.float32)
    for ratio in (1, 2.0, 2.4, 3.0, 4.5, 5.33):  # of a minor-third bell, roughly; each a little out of tune
        frequency = np.float32(base * ratio * rng.uniform(0.98, 1.02))
        decay = np.float32(rng.uniform(1, 2) * ratio)
        bell_tone += np.float32(rng.uniform(0.3, 1)) * np.sin(TWO_PI * frequency * seconds) * np.exp(-decay * seconds)
    return bell_tone


SOUND_EVENTS: tuple[Callable[[np.random.Generator, int], Waveform], ...] = (
    pure_beeps,
    harmonic_tone,
    siren,
    sweep,
    noise_bursts,
    wind,
    engine,
    clicks,
    drum,
    buzz,
    plucked_string,
    bird,
    water_drops,
    bell,
)
CLASS_NAMES = [event.__name__ for event in SOUND_EVENTS]


def _float32(waveform_T: NDArray[Any]) -> Waveform:
    return waveform_T.astype(np.float32, copy=False)


def _seconds(num_samples: int) -> Waveform:
    return np.arange(num_samples, dtype=np.float32) * np.float32(1 / SAMPLE_RATE)


def _ramp(frequency: float, num_samples: int) -> Waveform:
    """Phase, in periods modulo 1, of a constant frequency in Hz; in float64 before the modulo, for a long clip."""
    return _fraction(np.arange(num_samples, dtype=np.float64) * (frequency / SAMPLE_RATE))


def _phase(frequency_T: Waveform) -> Waveform:
    """Phase, in periods modulo 1, of a changing frequency in Hz."""
    return _fraction(np.cumsum(frequency_T, dtype=np.float64) * (1 / SAMPLE_RATE))


def _fraction(periods_T: NDArray[np.float64]) -> Waveform:
    return (periods_T - np.floor(periods_T)).astype(np.float32)  # fifteen times as fast as "% 1"


def _wave_table(overtones: NDArray[np.float64], phase_T: Waveform) -> Waveform:
    """A sum of sines at multiples of the phase, by looking its one period up."""
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, np.complex128)
    spectrum[1 : len(overtones) + 1] = -1j * overtones
    table = np.fft.irfft(spectrum * (TABLE_SIZE / 2)).astype(np.float32)
    # "wrap" needs no check of the bounds, and a phase that was rounded up to 1 reads the period's start.
    return table.take((phase_T * TABLE_SIZE).astype(np.int32), mode="wrap")


def _band_noise(rng: np.random.Generator, num_samples: int, center: float, width: float) -> Waveform:
    """Noise through a two-pole band-pass with its peak at `center` and a bandwidth of `width`, in Hz."""
    radius = np.exp(-np.pi * width / SAMPLE_RATE)
    poles = [1, -2 * radius * np.cos(2 * np.pi * center / SAMPLE_RATE), radius**2]
    return _float32(signal.lfilter([1 - radius, 0, radius - 1], poles, white_noise(rng, num_samples)))


def _regular(num_samples: int, period: float) -> NDArray[np.int64]:
    """Starts of repetitions, in samples, every `period` seconds."""
    return np.arange(0, num_samples, max(1, round(period * SAMPLE_RATE)))


def _irregular(rng: np.random.Generator, num_samples: int, period: float, jitter: float) -> NDArray[np.int64]:
    """Starts of repetitions, in samples, `period` seconds apart give or take a share `jitter` < 1 of it."""
    size = int(num_samples / (period * SAMPLE_RATE * (1 - jitter))) + 1
    gaps = period * SAMPLE_RATE * (1 + jitter * rng.uniform(-1, 1, size))
    starts = np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)
    return starts[starts < num_samples]


def _grains(starts: NDArray[np.int64], num_samples: int) -> tuple[NDArray[np.int64], Waveform]:
    """For every sample, the number of its repetition and the seconds since that started."""
    lengths = np.diff(starts, append=num_samples)
    grain = np.repeat(np.arange(len(starts)), lengths)
    offset = np.arange(num_samples) - np.repeat(starts, lengths)
    return grain, offset.astype(np.float32) * np.float32(1 / SAMPLE_RATE)
