"""Bad input: one or two lines with the key, the value, what is allowed, and the nearest match."""

import pytest

from esper.config.composing import compose
from esper.errors import ConfigError

CASES = [
    # what was typed, what the answer must contain
    ("policy=heuristc", ["policy=heuristc", "did you mean policy=heuristic?", "static"]),
    ("gates=stict", ["did you mean gates=strict?", "default, permissive, strict"]),
    ("hots=cnn", ["hots=cnn", "did you mean host?", "groups:", "seed"]),
    ("engine.membrs=3", ["engine.membrs=3", "did you mean engine.members?", "threads"]),
    ("members=3", ["members=3", "did you mean engine.members?"]),
    ("engine.learning_rate=1", ["did you mean optimizer.learning_rate?"]),
    ("engine.members=abc", ["engine.members=abc", "whole number"]),
    ("engine.members=1.5", ["engine.members=1.5", "whole number"]),
    ("engine.members=0", ["engine.members=0", "1 to 4096"]),
    ("controls=maybe", ["controls=maybe", "expected a list"]),
    ("engine.kind=seqential", ["engine.kind=seqential", "did you mean sequential?", "auto, fused"]),
    ("engine.governor=3", ["engine.governor=3", "engine.governor.KEY=VALUE"]),
    ("engine.governor.max_rollbacks=-1", ["engine.governor.max_rollbacks=-1", "1 to"]),
    ("optimizer.learning_rate=nan", ["optimizer.learning_rate=nan", "above 0"]),
    ("optimizer.learning_rate=fast", ["optimizer.learning_rate=fast", "a number"]),
    ("optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "two numbers"]),
    ("host.channels=[4,eight]", ["host.channels=[4,eight]", "whole number"]),
    ("host.channels=[4,0]", ["host.channels[1]=0"]),
    ("host.channels=8", ["host.channels=8", "a list"]),
    ("task=pysource", ["host=cnn", "task=pysource", "choose host=decoder or host=transformer"]),
    ("host=transformer", ["host=transformer", "task=digits", "choose host=cnn or host=mlp or host=resnet or host=vit"]),
    ("host=mlp task=pysource", ["host=mlp", "vectors or images or sequences", "tokens", "choose host=decoder"]),
    ("host=mlp host.widths=[]", ["host.widths=[]", "1 to 256 blocks"]),
    ("host=resnet host.depth=10", ["host.depth=10", "6n + 2"]),
    ("host=vit host.n_head=5", ["host.n_head=5", "a divisor of host.n_embd, 32"]),
    ("task=pysource host=transformer host.n_head=5", ["host.n_head=5", "divisor of host.n_embd, 32"]),
    ("task=pysource host=decoder host.n_head=3", ["host.n_head=3", "divides host.n_embd, 32, into even parts"]),
    ("task=pysource host=decoder host.n_embd=6 host.n_head=2", ["host.n_head=2", "even parts"]),
    ("task=pysource host=decoder host.window=0", ["host.window=0", "1 to"]),
    ("task=pysource host=transformer task.block_size=1", ["task.block_size=1", "2 to"]),
    ("task=pysource host=transformer task.val_bytes=64", ["task.val_bytes=64", "65 to"]),
    ("task=text", ["task.path", "experiment=language task=text task.path=FILE"]),
    ("task=text task.path=corpus.txt", ["host=cnn", "choose host=decoder or host=transformer"]),
    ("slots.names=[early,early]", ["slots.names=[early,early]", "once"]),
    ("slots.names=[]", ["slots.names=[]", "at least one"]),
    ("policy.blend=sigmod", ["policy.blend=sigmod", "sigmoid"]),
    ("blueprint.names=[norm,norm]", ["blueprint.names=[norm,norm]", "once"]),
    ("task.distortion=nope", ["task.distortion", "nope", "mild"]),
    ("seed=null", ["seed=null", "null is not allowed"]),
    ("seed=-1", ["seed=-1", "0 to"]),
    ("seed=???", ["seed=???", "missing"]),
    ("seed=${nowhere}", ["seed=${nowhere}", "nowhere"]),
    ("seed=1,2", ["seed=1,2", "-m"]),
    ("seed", ["seed", "key=value"]),
    ("=3", ["=3", "key=value"]),
    ("seed=[1", ["seed=[1", "key=value"]),
    ("host=null", ["host=null", "cnn"]),
    ("host=3", ["host=3", "cnn"]),
    ("host=[cnn,cnn_wide]", ["host=[cnn,cnn_wide]", "one option"]),
    ("slots=[[]]", ["slots=[[]]", "one option"]),
    ("blueprint.names=[[]]", ["blueprint.names[0]=[]", "text"]),
    ("blueprint.names=[norm,{a:1}]", ["blueprint.names[1]=", "text"]),
    ("host.channels=[4,[8]]", ["host.channels[1]=[8]", "a whole number"]),
    ("~host", ["~host", "every group"]),
    ("~engine.members", ["~engine.members", "every group and key"]),
    ("+seed=1", ["+seed=1", "without the +"]),
    ("+engine.foo=1", ["engine.foo", "no such key"]),
    ("++engine.membrs=1", ["engine.membrs", "did you mean engine.members?"]),
    ("policy.name=static", ["policy.name=static", "policy=static"]),
    ("name=../elsewhere", ["name=../elsewhere", "folder"]),
    ("resume=somewhere", ["resume=somewhere", "command line"]),
    ("engine.precision=bf16 engine.device=cpu", ["engine.precision=bf16", "float32"]),
    ("hydra/launcher=slurm", ["hydra/launcher=slurm", "basic"]),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("typed", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_the_answer_names_the_key_and_what_is_allowed(typed, wanted):
    with pytest.raises(ConfigError) as caught:
        compose(typed.split())
    message = str(caught.value)
    assert all(part in message for part in wanted), message
    assert len(message.splitlines()) <= 2


def test_the_last_of_several_overrides_is_the_one_quoted():
    with pytest.raises(ConfigError, match=r"engine\.members=x"):
        compose(["engine.members=3", "engine.members=x"])


def test_a_users_own_folder_adds_options(tmp_path):
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates" / "mine.yaml").write_text("defaults: [default, _self_]\nmin_training_epochs: 7\n")
    assert compose(["gates=mine"], config_dir=str(tmp_path)).gates.min_training_epochs == 7
    with pytest.raises(ConfigError, match="mine"):
        compose(["gates=mime"], config_dir=str(tmp_path))


def test_a_wrong_key_in_a_users_own_file_is_named(tmp_path):
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates" / "mine.yaml").write_text("defaults: [default, _self_]\nmin_training_epoch: 7\n")
    with pytest.raises(ConfigError, match="min_training_epoch") as caught:
        compose(["gates=mine"], config_dir=str(tmp_path))
    assert len(str(caught.value).splitlines()) <= 2
