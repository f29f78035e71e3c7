"""What the phase bitnet is told; free of torch."""

from dataclasses import dataclass

from esper.checks import in_range, one_of, positive

EMBEDDINGS = ("fp16", "int8")
OPTIMIZERS = ("adamw", "muon")


@dataclass(kw_only=True)
class BitnetConfig:
    """Training through the quantiser, packing, and the thresholds of the gates.

    epochs, steps_per_epoch, batch_size: of training; a checkpoint is written after every epoch. learning_rate: at its
    peak, from which half a cosine leads down. distill: share of the loss that is the divergence from the teacher, the
    rest is cross-entropy. replay_share: of a minibatch, its examples of the lessons in the model's card, if there are
    any. quantize_share: of training, in which the quantiser's strength goes from 0 to 1. optimizer: adamw, or muon for
    the layers' matrices. grokfast: filter gradients. even_gradients: scale all layers' gradients to one size.
    embedding: fp16 or int8 in the packed file. min_*: what the packed model keeps of its input on the test split: top-1
    (ratio), likelihood (exp of minus the nats lost), and bytes (how many times fewer), by the embedding.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    distill: float
    replay_share: float
    quantize_share: float
    optimizer: str
    grokfast: bool
    even_gradients: bool
    use_mixed_precision: bool
    embedding: str
    min_top1_ratio: float
    min_likelihood_ratio: float
    min_bytes_ratio_fp16: float
    min_bytes_ratio_int8: float

    def __post_init__(self) -> None:
        in_range("bitnet.epochs", self.epochs, 1, 100_000)
        in_range("bitnet.steps_per_epoch", self.steps_per_epoch, 1, 1_000_000)
        in_range("bitnet.batch_size", self.batch_size, 1, 65_536)
        positive("bitnet.learning_rate", self.learning_rate, 1.0)
        in_range("bitnet.weight_decay", self.weight_decay, 0.0, 10.0)
        positive("bitnet.max_grad_norm", self.max_grad_norm)
        in_range("bitnet.distill", self.distill, 0.0, 1.0)
        in_range("bitnet.replay_share", self.replay_share, 0.0, 0.9)
        in_range("bitnet.quantize_share", self.quantize_share, 0.0, 0.9)
        one_of("bitnet.optimizer", self.optimizer, OPTIMIZERS)
        one_of("bitnet.embedding", self.embedding, EMBEDDINGS)
        in_range("bitnet.min_top1_ratio", self.min_top1_ratio, 0.0, 1.0)
        in_range("bitnet.min_likelihood_ratio", self.min_likelihood_ratio, 0.0, 1.0)
        in_range("bitnet.min_bytes_ratio_fp16", self.min_bytes_ratio_fp16, 1.0, 20.0)
        in_range("bitnet.min_bytes_ratio_int8", self.min_bytes_ratio_int8, 1.0, 20.0)

    @property
    def min_bytes_ratio(self) -> float:
        """Of the embedding that is packed."""
        return self.min_bytes_ratio_fp16 if self.embedding == "fp16" else self.min_bytes_ratio_int8
