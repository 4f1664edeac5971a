"""LPIPS on random backbones in torchvision's own files; the heads are the lpips package's."""

import random
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from corl_cli.core.errors import CorlError
from corl_cli.models import torchvision_guard
from corl_cli.scoring import lpips as module
from corl_cli.scoring.lpips import Lpips
from corl_cli.scoring.lpips_network import KINDS, download, local_distance, unit

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """A file for each backbone, as torchvision's are: random weights that keep the signal alive, and a classifier."""
    if not Lpips("vgg", None).heads.is_file():
        pytest.skip("the lpips package, which holds the heads, is not installed")
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    for name, kind in KINDS.items():
        features = kind.features()
        for layer in features.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.normal_(layer.bias, std=0.1)
        weights = {f"features.{key}": value for key, value in features.state_dict().items()}
        torch.save(weights | {"classifier.1.bias": torch.zeros(10)}, folder / f"{name}.pth")
    return folder


@pytest.fixture(scope="session")
def lpips(backbones):
    """Every network, loaded."""
    loaded = {}
    for name in KINDS:
        loaded[name] = Lpips(name, str(backbones / f"{name}.pth"))
        loaded[name].load(CPU)
    return loaded


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def read_by(network: nn.Module, work) -> int:
    """How many images pass through a network while `work` is done."""
    counts = []
    hook = network.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    work()
    hook.remove()
    return sum(counts)


def test_the_formula_by_hand():
    # one place, two channels: (3, 4) -> (.6, .8) and (0, 2) -> (0, 1); 2 * .36 + .5 * .04 = .74
    one, other = (torch.tensor(values).view(1, 2, 1, 1) for values in ([3.0, 4.0], [0.0, 2.0]))
    head = torch.tensor([2.0, 0.5]).view(1, 2, 1, 1)
    assert unit(one).flatten().tolist() == pytest.approx([0.6, 0.8])
    assert float(local_distance(unit(one), unit(other), head)) == pytest.approx(0.74)
    assert unit(torch.zeros(1, 2, 1, 1)).flatten().tolist() == [0, 0]  # a dead place has no direction, and no NaN


def test_lpips_is_the_sum_over_layers_of_their_spatial_means(lpips):
    network = lpips["vgg"].network
    inputs = [torch.rand(1, 3, 32, 32) * 2 - 1 for _ in range(2)]
    one, other = (network(values) for values in inputs)
    total = 0.0
    for a, b, head in zip(one, other, network.heads, strict=True):
        total += float((head * (a - b) ** 2).sum(1).mean())
    assert float(sum(layer.mean() for layer in network.compare(one, other))) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_equals_the_lpips_package(name, backbones, lpips):
    """Values, and the picture against the package's spatial map, at sizes that do not divide evenly."""
    try:
        torchvision_guard.check()
        import lpips as package
    except Exception as error:  # a mismatched torchvision raises RuntimeError
        pytest.skip(f"the lpips package does not import: {error}")
    weights = torch.load(backbones / f"{name}.pth", weights_only=True)
    real, *drawn = (noise(seed, (70, 45)) for seed in range(4))
    tensors = [package.im2tensor(np.asarray(image)) for image in (real, *drawn)]
    with torch.no_grad():
        plain, spatial = (_package(package, name, weights, spatial=spatial) for spatial in (False, True))
        expected = torch.stack([plain(tensors[0], tensor).flatten() for tensor in tensors[1:]]).flatten()
        local = spatial(tensors[0], tensors[1])[0, 0]
    found = lpips[name]([real] * 3, drawn).values
    assert (1 - found).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert torch.allclose(lpips[name].local_distances(real, drawn[0]), local, atol=1e-6)


def _package(package, name, weights, *, spatial):
    """The package's own network with a backbone of ours: its slices keep the indices of `features`."""
    reference = package.LPIPS(net=name, pnet_rand=True, verbose=False, spatial=spatial)
    for slice_name, part in reference.net.named_children():
        own = {key: weights[f"features.{key}"] for key in part.state_dict()}
        getattr(reference.net, slice_name).load_state_dict(own)
    return reference


@pytest.mark.parametrize("name", KINDS)
def test_equal_images_are_entirely_alike(name, lpips):
    found = lpips[name]([noise(0), noise(1)], [noise(0), noise(2)])
    assert float(found.values[0]) == 1
    assert float(found.values[1]) < 0.99
    assert found.values.dtype == torch.float32
    assert found.details[1] == {"LPIPS": f"{1 - float(found.values[1]):.4f}"}


def test_a_value_depends_on_its_pair_alone(lpips, monkeypatch):
    """Any order, mixed sizes, other modes, pieces of two drawings: each value is that of the pair by itself."""
    monkeypatch.setattr(module, "PIXELS", 2 * 32 * 32)
    reals = [noise(seed, (32, 32) if seed % 2 else (48, 20)) for seed in range(3)]
    pairs = [(real, noise(100 + seed, real.size)) for seed in range(5) for real in reals]
    pairs.append((reals[1], noise(9).convert("L").convert("RGBA")))
    random.Random(0).shuffle(pairs)
    together = lpips["vgg"](*zip(*pairs, strict=True)).values
    alone = torch.cat([lpips["vgg"]([real], [drawn]).values for real, drawn in pairs])
    assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-6)


@pytest.mark.parametrize("pixels", [3 * 32 * 32, 2**20])
def test_the_real_image_of_a_group_is_read_once(lpips, monkeypatch, pixels):
    """B groups of G: B (G + 1) images through the network, also where a group is cut into pieces."""
    monkeypatch.setattr(module, "PIXELS", pixels)
    reals, drawn = [noise(0), noise(1)], [noise(seed) for seed in range(2, 10)]
    shared = [reals[row // 4] for row in range(8)]
    apart = [image.copy() for image in shared]
    values = {}
    assert read_by(lpips["vgg"].network, lambda: values.update(shared=lpips["vgg"](shared, drawn).values)) == 2 * 5
    assert read_by(lpips["vgg"].network, lambda: values.update(apart=lpips["vgg"](apart, drawn).values)) == 2 * 8
    assert values["shared"].tolist() == pytest.approx(values["apart"].tolist(), abs=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_images_too_small_for_the_network_have_no_value(name, lpips):
    least = KINDS[name].smallest
    small, fits = (noise(3, (40, least - 1)), noise(4, (least, 40)))
    found = lpips[name]([small, fits], [small, fits])
    assert found.values.isnan().tolist() == [True, False]
    assert found.details[0] == {
        "failed": f"the image is 40x{least - 1}, lpips-{name} needs at least {least}x{least} pixels"
    }
    with pytest.raises(CorlError, match=f"40x{least - 1}"):
        lpips[name].differences(small, small)


def test_the_picture_is_bright_where_the_images_differ(lpips):
    real = noise(0, (64, 64))
    drawn = real.copy()
    drawn.paste((0, 0, 0), (0, 0, 32, 64))
    picture = lpips["vgg"].differences(real, drawn)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    local = lpips["vgg"].local_distances(real, drawn)
    assert local[:, :28].mean() > 2 * local[:, 36:].mean()
    green = np.asarray(picture, np.float64)[:, :, 1]  # viridis: from .00 to .91 of green
    assert green[:, :28].mean() > green[:, 36:].mean()


def test_the_picture_lies_over_the_drawing(lpips):
    """Equal images: one colour for no distance, and the drawing's greys under it."""
    real = Image.new("RGB", (32, 32), "black")
    real.paste("white", (0, 0, 16, 32))
    picture = lpips["vgg"].differences(real, real.copy())
    # 0.6 of viridis' (68, 1, 84) and 0.4 of white or black
    assert picture.getpixel((8, 8)) == pytest.approx((143, 103, 152), abs=2)
    assert picture.getpixel((24, 8)) == pytest.approx((41, 1, 50), abs=2)


def test_features_are_computed_in_full_float32(lpips):
    assert lpips["alex"].network is not None
    assert torch.backends.cudnn.allow_tf32 is False


def test_the_network_is_frozen(lpips):
    assert not any(parameter.requires_grad for parameter in lpips["vgg"].network.parameters())
    assert not lpips["vgg"].network.training


def test_the_backbone_is_looked_for_in_the_hubs_cache(backbones, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "hub" / "checkpoints" / KINDS["alex"].file
    backbone = Lpips("alex", None).requirements()[1]
    assert backbone.state == "missing"
    assert str(place) in backbone.detail
    with pytest.raises(CorlError, match=str(place)) as raised:
        Lpips("alex", None).load(CPU)
    assert KINDS["alex"].url in raised.value.hint
    place.parent.mkdir(parents=True)
    (backbones / "alex.pth").rename(place)
    try:
        likeness = Lpips("alex", None)
        assert all(requirement.state == "ok" for requirement in likeness.requirements())
        likeness.load(CPU)
        assert likeness([noise(0)], [noise(0)]).values.tolist() == [1]
    finally:
        place.rename(backbones / "alex.pth")


@pytest.fixture
def site():
    """A server that offers what is put into `files`, by path."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in files else 404)
            self.end_headers()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


def test_a_download_is_whole_and_checked(site, tmp_path):
    address, files = site
    place = tmp_path / "checkpoints" / "net-2cf24dba.pth"  # the SHA-256 of hello begins so
    url = f"{address}/{place.name}"
    with pytest.raises(CorlError, match="404"):
        download(url, place)
    files[f"/{place.name}"] = b"hell"
    with pytest.raises(CorlError, match="invalid hash value") as raised:
        download(url, place)
    assert str(place) in raised.value.hint
    assert not list(place.parent.iterdir())
    files[f"/{place.name}"] = b"hello"
    download(url, place)
    assert [file.name for file in place.parent.iterdir()] == [place.name]
    assert place.read_bytes() == b"hello"


def test_where_the_net_may_be_used_a_missing_backbone_is_a_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", False)
    assert Lpips("vgg", None).requirements()[1].state == "download"
    assert Lpips("vgg", str(tmp_path / "none.pth")).requirements()[1].state == "missing"


@pytest.mark.parametrize("content", ["text", "empty", "module", "list", "other", "infinite"])
def test_a_file_that_is_not_the_backbone_is_one_line(content, backbones, tmp_path):
    path = tmp_path / "backbone.pth"
    weights = torch.load(backbones / "alex.pth", weights_only=True)
    if content in ("text", "empty"):
        path.write_text("no weights" if content == "text" else "")
    elif content == "infinite":
        torch.save(weights | {"features.0.bias": weights["features.0.bias"] * torch.inf}, path)
    else:
        torch.save({"module": nn.Linear(1, 1), "list": [1], "other": {"a": torch.zeros(1)}}[content], path)
    with pytest.raises(CorlError, match=str(path)) as raised:
        Lpips("alex", str(path)).load(CPU)
    assert "\n" not in raised.value.message


def test_a_backbone_of_another_network_is_refused(backbones):
    with pytest.raises(CorlError, match=r"squeeze\.pth cannot be read as the 10 weights features\.0\.weight"):
        Lpips("alex", str(backbones / "squeeze.pth")).load(CPU)


def test_without_the_lpips_package_the_heads_are_missing(backbones, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    likeness = Lpips("alex", str(backbones / "alex.pth"))
    assert [requirement.state for requirement in likeness.requirements()] == ["missing", "ok"]
    with pytest.raises(CorlError, match="lpips package") as raised:
        likeness.load(CPU)
    assert "pip install --no-deps pycocoevalcap lpips" in raised.value.hint
