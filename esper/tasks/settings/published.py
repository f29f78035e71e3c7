"""Image sets that are downloaded at first use."""

from dataclasses import dataclass, field

from esper.checks import in_range, one_of, require
from esper.tasks.settings.base import BaseTaskConfig

CIFAR_PIXELS, MNIST_PIXELS = 32, 28  # height and width


@dataclass(kw_only=True)
class PublishedConfig(BaseTaskConfig):
    """What every published set takes; its test images are the test split.

    distortion: "default" shifts by up to `shift_pixels` (and mirrors, where what an image shows stays what it is) anew
    every epoch, "none" does neither. val_fraction: share of the training images kept out of training. data_dir: where
    what was fetched is kept. url: where it is fetched from at first use.
    """

    distortion: str = "default"
    shift_pixels: int = 4
    val_fraction: float = 0.1
    data_dir: str = "~/.cache/esper"
    url: str = ""

    def __post_init__(self) -> None:
        one_of("task.distortion", self.distortion, ("default", "none"))
        in_range("task.shift_pixels", self.shift_pixels, 0, (self.side_pixels or 1) - 1)
        in_range("task.val_fraction", self.val_fraction, 0.01, 0.9)


@dataclass(kw_only=True)
class Cifar10Config(PublishedConfig):
    """CIFAR-10 (Krizhevsky 2009), the binary version: 50,000 + 10,000 colour images, 32x32 pixels.

    url: of the archive. md5: what it must be.
    """

    name: str = "cifar10"
    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    md5: str = "c32a1d4ab5d03f1284b67883e8d87530"

    @property
    def side_pixels(self) -> int | None:
        """Of all images."""
        return CIFAR_PIXELS


@dataclass(kw_only=True)
class Cifar100Config(Cifar10Config):
    """CIFAR-100, of the same make: 100 classes."""

    name: str = "cifar100"
    url: str = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    md5: str = "03b5dce01913d631647c71ecec9e9cb8"


def _mnist_md5() -> list[str]:
    return [
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ]


def _fashion_mnist_md5() -> list[str]:
    return [
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ]


@dataclass(kw_only=True)
class MnistConfig(PublishedConfig):
    """MNIST (LeCun 1998): 60,000 + 10,000 handwritten digits, gray, 28x28 pixels.

    url: of the folder that holds the four files. md5: what they must be: training images and labels, then those of the
    test.
    """

    name: str = "mnist"
    shift_pixels: int = 2
    url: str = "https://ossci-datasets.s3.amazonaws.com/mnist"
    md5: list[str] = field(default_factory=_mnist_md5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.md5) == 4, "task.md5", self.md5, "four, of images and labels of training and test")

    @property
    def side_pixels(self) -> int | None:
        """Of all images."""
        return MNIST_PIXELS


@dataclass(kw_only=True)
class FashionMnistConfig(MnistConfig):
    """Fashion-MNIST (Xiao 2017): 60,000 + 10,000 articles of clothing, gray, 28x28 pixels, in the files of MNIST."""

    name: str = "fashion_mnist"
    url: str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    md5: list[str] = field(default_factory=_fashion_mnist_md5)
