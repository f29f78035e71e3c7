"""The handwritten digits, and how far they are distorted."""

from dataclasses import dataclass

from esper.checks import in_range, one_of
from esper.errors import ConfigError
from esper.tasks.settings.base import BaseTaskConfig

DIGITS_PIXELS = 8  # height and width of the images as they come


@dataclass(frozen=True, slots=True, kw_only=True)
class DistortionStrength:
    """How far an image may be moved: each value is drawn anew per image, evenly within these bounds.

    rotation_degrees: at most so far either way. scale_range: smallest and largest magnification. shift_pixels: at most
    so far along each axis, in pixels of the distorted image. noise_std: of the Gaussian noise, where the ink's full
    strength is 1.
    """

    rotation_degrees: float
    scale_range: tuple[float, float]
    shift_pixels: float
    noise_std: float


PRESETS: dict[str, DistortionStrength] = {
    "mild": DistortionStrength(rotation_degrees=15.0, scale_range=(0.9, 1.1), shift_pixels=1.0, noise_std=0.1),
    "default": DistortionStrength(rotation_degrees=30.0, scale_range=(0.8, 1.2), shift_pixels=2.0, noise_std=0.15),
}


@dataclass(kw_only=True)
class DigitsConfig(BaseTaskConfig):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, bundled with the library.

    distortion: "none" leaves the 8x8 images as they are; "mild" and "default" upsample to `image_size` and distort
    anew every epoch. The four fields from `rotation_degrees` on replace single values of the chosen strength.
    val_copies: fixed distortions of each validation and test example (one where there is no distortion).
    """

    name: str = "digits"
    distortion: str = "default"
    image_size: int = 16
    rotation_degrees: float | None = None
    scale_range: list[float] | None = None
    shift_pixels: float | None = None
    noise_std: float | None = None
    val_fraction: float = 0.2
    test_fraction: float = 0.195  # leaves 1,088 for training: 17 whole batches of 64
    val_copies: int = 4

    def __post_init__(self) -> None:
        one_of("task.distortion", self.distortion, [*PRESETS, "none"])
        replaced = [key for key in DistortionStrength.__dataclass_fields__ if getattr(self, key) is not None]
        if self.distortion == "none" and replaced:
            raise ConfigError(f"task.{replaced[0]} has no effect with task.distortion=none; drop one of the two.")
        in_range("task.image_size", self.image_size, 8, 256)
        in_range("task.val_copies", self.val_copies, 1, 64)
        in_range("task.rotation_degrees", self.rotation_degrees or 0.0, 0.0, 180.0)
        in_range("task.shift_pixels", self.shift_pixels or 0.0, 0.0, self.image_size)
        in_range("task.noise_std", self.noise_std or 0.0, 0.0, 10.0)
        if self.scale_range is not None and not (
            len(self.scale_range) == 2 and 0.1 <= self.scale_range[0] <= self.scale_range[1] <= 10.0
        ):
            raise ConfigError(f"task.scale_range={self.scale_range}: expected [smallest,largest] from 0.1 to 10.")
        in_range("task.val_fraction", self.val_fraction, 0.01, 0.9)
        in_range("task.test_fraction", self.test_fraction, 0.01, 0.9)
        if self.val_fraction + self.test_fraction > 0.95:
            raise ConfigError(
                f"task.val_fraction + task.test_fraction = {self.val_fraction + self.test_fraction:g}: "
                "expected at most 0.95, so that something is left to train on."
            )

    @property
    def side_pixels(self) -> int | None:
        """Of the images that a host gets."""
        return DIGITS_PIXELS if self.distortion == "none" else self.image_size

    def strength(self) -> DistortionStrength | None:
        """The distortion asked for, or None for plain images."""
        if self.distortion == "none":
            return None
        preset = PRESETS[self.distortion]
        low, high = self.scale_range or preset.scale_range
        return DistortionStrength(
            rotation_degrees=preset.rotation_degrees if self.rotation_degrees is None else self.rotation_degrees,
            scale_range=(low, high),
            shift_pixels=preset.shift_pixels if self.shift_pixels is None else self.shift_pixels,
            noise_std=preset.noise_std if self.noise_std is None else self.noise_std,
        )
