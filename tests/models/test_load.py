"""Loading: what is taken, what is refused and in which words, and that another process loads the same."""

import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.errors import ModelError, WeightsError
from engine.models.load import Model, absolute_spec, load_model, parse_spec
from engine.models.programs import is_arithmetic
from engine.models.wrappers import ArgMax, Compose, Quantise

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 2, 1)
    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))

def unet():
    torch.manual_seed(0)
    return Net()

class Two(nn.Module):
    def forward(self, x):
        return {"logits": x, "distance": 2 * x}

class Bad(nn.Module):
    def forward(self, x):
        return GIVEN(x)

def tuple_net(): return bad(lambda x: (x, x))
def none_net(): return bad(lambda x: None)
def slash_net(): return bad(lambda x: {"a/b": x})
def int_net(): return bad(lambda x: {1: x})
def list_net(): return bad(lambda x: {"a": [x]})
def bad(given):
    net = Bad()
    net.forward = given
    return net
def mixed(): return nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1).double())
def raises(): raise ValueError("no licence\\nfor this")
def leaves(): raise SystemExit(3)
def nothing(): return None
number = 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "hungry.py").write_text("import a_module_that_is_not_there\n")
    (folder / "sibling.py").write_text("from net import Net as Sibling\n")
    return folder


@pytest.fixture
def state(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    module = load_model(f"{folder}/net.py:Net").module.model
    return {key: torch.rand_like(t) if t.is_floating_point() else t for key, t in module.state_dict().items()}


def x() -> torch.Tensor:
    return torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


def script(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), path)


def export(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auto = torch.export.Dim.AUTO
        program = torch.export.export(
            module.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
        )
        torch.export.save(program, path)


def output(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return model.module(x())["output"]


def test_a_factory_in_a_folder_with_spaces_gives_a_named_output_in_eval_mode(folder: Path) -> None:
    model = load_model(f"{folder}/net.py:unet")
    assert output(model).shape == (1, 2, 8, 8)
    assert output(model).std() > 0
    assert not any(module.training for module in model.module.modules())
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert (model.kind, model.dtype) == ("module", torch.float32)
    assert model.n_parameter_bytes == sum(t.numel() * t.element_size() for t in model.module.state_dict().values())
    assert not model.module.train().training


def test_a_factory_of_an_installed_module_and_a_sibling_import_load(folder: Path) -> None:
    assert load_model("torch.nn:Identity").dtype is torch.float32
    assert output(load_model(f"{folder}/sibling.py:Sibling")).shape == (1, 2, 8, 8)


def test_weights_come_from_safetensors_and_from_state_dicts_of_all_makes(folder: Path, state: dict) -> None:
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "nested.pt")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    models = [
        load_model(f"{folder}/net.py:Net@{folder}/{name}")
        for name in ("w.safetensors", "w.pt", "nested.pt", "legacy.pth")
    ]
    assert len({model.fingerprint for model in models}) == 1
    assert torch.equal(models[0].module.model.first.weight, state["first.weight"])
    assert load_model(f"{folder}/net.py:Net", weights=f"{folder}/w.pt").fingerprint == models[0].fingerprint
    assert load_model(f"{folder}/net.py:unet").fingerprint != models[0].fingerprint


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def spoil(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write one file of each kind that must be refused."""
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        data = (folder / name).read_bytes()
        (folder / f"short_{name}").write_bytes(data[: len(data) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("these are no weights")
    torch.save({"a": Bomb(str(folder / "boom"))}, folder / "bomb.pt")
    (folder / "bare.pt").write_bytes(pickle.dumps(Bomb(str(folder / "boom"))))
    torch.save(nn.Conv2d(1, 1, 1), folder / "whole.pt")
    torch.save({}, folder / "none.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({**state, "epoch": 3}, folder / "extra.pt")
    torch.save({k: v for k, v in state.items() if k != "last.bias"}, folder / "missing.pt")
    torch.save({**state, "middle.weight": torch.zeros(1)}, folder / "unexpected.pt")
    torch.save({**state, "first.weight": torch.zeros(4, 1, 3, 3)}, folder / "shape.pt")
    script(nn.Conv2d(1, 1, 1), folder / "script.pt")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("w.safetensor.pt", "Did you mean 'w.safetensors'"),  # a typo in the name
        ("short_w.safetensors", "damaged or no safetensors file"),  # a copy that broke off
        ("short_w.pt", "damaged or no torch file"),
        ("empty.pt", "damaged or no torch file"),
        ("text.pt", "damaged or no torch file"),
        ("bomb.pt", "could run any code"),  # a pickle that runs a command, inside torch's archive
        ("bare.pt", "could run any code"),  # the same, bare
        ("whole.pt", "Save them with safetensors.torch.save_file(model.state_dict(), path)"),  # a pickled module
        ("none.pt", "must hold named tensors, not nothing"),
        ("list.pt", "must hold named tensors, not a list"),
        ("extra.pt", "'epoch' beside them"),
        ("missing.pt", "lack 'last.bias'"),
        ("unexpected.pt", "have 'middle.weight' that the module has not"),
        ("shape.pt", "first.weight (4, 1, 3, 3) for (3, 1, 3, 3)"),
        ("script.pt", "TorchScript program, not a state dict"),
    ],
)
def test_weights_that_are_damaged_or_unsafe_or_do_not_fit_are_refused(
    folder: Path, state: dict, file: str, said: str
) -> None:
    spoil(folder, state)
    with pytest.raises(WeightsError) as caught:
        load_model(f"{folder}/net.py:Net@{folder}/{file}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "boom").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "not an empty one"),
        ("net.py:unet + ", "not an empty one"),
        ("net.py", "Write net.py:factory"),
        ("w.safetensors", "holds weights, not a model"),
        ("net", "is not a model"),
        ("net.py:", "a factory in it, not ''"),
        (":unet", "must name a file or module"),
        ("net.txt:unet-2", "a factory in it, not 'unet-2'"),
        ("my net:unet", "neither a .py file nor the name of a module"),
        ("net.py:unet@weights.npz", "weights must be a file of .safetensors"),
    ],
)
def test_a_malformed_specification_says_what_to_write(spec: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_spec(spec)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nett.py:unet", "Did you mean 'net.py'?"),
        ("net.py:unte", "Did you mean 'unet'?"),
        ("net.py:number", "must be a function or class, not 7"),
        ("net.py:raises", "failed: ValueError: no licence for this."),
        ("net.py:leaves", "failed: SystemExit: 3"),
        ("net.py:nothing", "must return a torch.nn.Module, not None"),
        ("net.py:mixed", "must share one dtype, not torch.float32, torch.float64"),
        ("broken.py:f", "cannot be imported: SyntaxError"),
        ("hungry.py:f", "No module named 'a_module_that_is_not_there'"),
        ("elsewhere/net.py:f", "does not exist"),
        ("program.pt2", "is missing"),
    ],
)
def test_a_model_that_cannot_be_made_says_why_in_one_line(folder: Path, spec: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(f"{folder}/{spec}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_and_doubled_weights_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="module 'no_such_package' cannot be imported"):
        load_model("no_such_package:net")
    with pytest.raises(ModelError, match=r"names .* already"):
        load_model(f"{folder}/net.py:Net@a.pt", weights="b.pt")
    with pytest.raises(ModelError, match="holds its own"):
        load_model("a.pt2", weights="b.pt")


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("tuple_net", "not a tuple of 2"),
        ("none_net", "not None"),
        ("slash_net", "'a/b' cannot"),
        ("int_net", "1 cannot"),
        ("list_net", "output 'a' must be a tensor, not a list of 1"),
    ],
)
def test_outputs_that_are_not_named_tensors_are_refused_by_type(folder: Path, factory: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(f"{folder}/net.py:{factory}").module(x())
    assert said in str(caught.value)


def test_parts_run_in_order_and_named_outputs_are_selected(folder: Path) -> None:
    model = load_model(f"{folder}/net.py:unet + engine.models.wrappers:Softmax + engine.models.wrappers:ArgMax")
    net = load_model(f"{folder}/net.py:unet")
    assert torch.equal(output(model), output(net).argmax(1).to(torch.uint8))
    two = load_model(f"{folder}/net.py:Two")
    assert list(two.module(x())) == ["logits", "distance"]
    with pytest.raises(ModelError, match=r"Put Select\('logits'\) between them"):
        load_model(f"{folder}/net.py:Two + engine.models.wrappers:ArgMax").module(x())


def test_a_script_and_a_program_give_what_the_module_gives(folder: Path) -> None:
    module = load_model(f"{folder}/net.py:unet")
    script(module.module.model, folder / "net.pt")
    export(module.module.model, folder / "net.pt2")
    for name, kind in (("net.pt", "torchscript"), ("net.pt2", "exported")):
        model = load_model(f"{folder}/{name}")
        assert model.kind == kind
        assert torch.allclose(output(model), output(module), atol=1e-6)
        assert load_model(model.spec).fingerprint == model.fingerprint
        composed = load_model(f"{folder}/{name} + engine.models.wrappers:ArgMax")
        assert composed.kind == kind
        assert output(composed).dtype == torch.uint8


@pytest.mark.parametrize("name", ["net.pt", "net.pt2"])
def test_a_damaged_program_is_refused(folder: Path, name: str) -> None:
    module = load_model(f"{folder}/net.py:unet").module.model
    (script if name == "net.pt" else export)(module, folder / name)
    data = (folder / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"text"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged, or not written by"):
            load_model(f"{folder}/{name}")


def test_a_state_dict_given_as_a_program_is_refused(folder: Path, state: dict) -> None:
    torch.save(state, folder / "w.pt")
    with pytest.raises(ModelError, match="no TorchScript program"):
        load_model(f"{folder}/w.pt")


def tampered(source: Path, target: Path, *, inside: str, change) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith(inside) else data)


@pytest.mark.parametrize(
    ("inside", "change", "said"),
    [
        # an operation of the graph is a command
        ("model.json", lambda d: d.replace(b"torch.ops.aten.relu.default", b"torch.os.system"), "torch.os.system"),
        # a size expression is code
        ("model.json", lambda d: d.replace(b"\"Symbol('s", b"\"exec('os') or Symbol('s"), "exec"),
        # weights are pickled
        ("weights_config.json", lambda d: d.replace(b'"use_pickle": false', b'"use_pickle": true'), "use_pickle"),
        # sample inputs are a bomb
        ("sample_inputs/model.pt", lambda d: pickle.dumps(Bomb("boom")), "not plain tensors"),
    ],
)
def test_a_program_that_would_have_to_be_trusted_is_refused(folder: Path, inside: str, change, said: str) -> None:
    export(load_model(f"{folder}/net.py:unet").module.model, folder / "net.pt2")
    tampered(folder / "net.pt2", folder / "bad.pt2", inside=inside, change=change)
    with pytest.raises(ModelError) as caught:
        load_model(f"{folder}/bad.pt2")
    assert said in str(caught.value)


def test_size_expressions_are_arithmetic_or_refused() -> None:
    for plain in ("4*s0 + 1", "FloorDiv(s77 + 1, 2)", "Mul(Integer(2), Symbol('s1', positive=True))", "Max(1, -u0)"):
        assert is_arithmetic(plain)
    for code in ("open('x')", "Symbol.__class__", "s0.foo", "[c for c in x]", "exec(chr(1))", "Symbol('a b')"):
        assert not is_arithmetic(code)


def test_another_process_loads_the_same_model_from_the_specification(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    spec = absolute_spec("net.py:unet + engine.models.wrappers:ArgMax")
    model = load_model("net.py:unet + engine.models.wrappers:ArgMax")
    assert model.spec == spec == absolute_spec(spec)
    code = "import sys; from engine.models.load import load_model; print(load_model(sys.argv[1]).fingerprint)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, spec], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == model.fingerprint


def test_the_fingerprint_tells_settings_code_weights_and_constants_apart() -> None:
    def dilated(dilation: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(1, 1, 3, dilation=dilation)

    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = torch.tensor(by)

    modules = [dilated(1), dilated(2), Compose(dilated(1), ArgMax()), Scaled(1.0), Scaled(2.0)]
    prints = [load_model(module).fingerprint for module in modules]
    assert len(set(prints)) == len(prints)
    assert prints[0] == load_model(dilated(1)).fingerprint
    assert load_model(dilated(1)).spec == "<module Conv2d>"


def test_settings_that_are_no_tensors_are_part_of_the_fingerprint():
    ranges = {load_model(Quantise(0.0, high)).fingerprint for high in (1.0, 2.0, 1.0)}
    assert len(ranges) == 2
    assert load_model(ArgMax()).fingerprint != load_model(ArgMax(torch.int16)).fingerprint
