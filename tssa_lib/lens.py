"""The lens: a trained TSSA model and a photo on one page, with Π, D and what happens without them.

    Lens("best.pt", "photo.jpg")                        # shows itself in a notebook
    Lens(model, photo, other=photo2).save("lens.html")  # one page that needs no kernel and no network

The page computes nothing that the library didn't: it holds the memberships, moments and gates of every layer, the
projected tokens in eight bits, and the boxes of runs made beforehand with a head, a layer or all TSSA switched off.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tssa_lib import plots, views
from tssa_lib.observe import Look, Observation, Observer
from tssa_lib.paths import PACKAGE, shipped
from tssa_lib.silence import intervene

RULES = {  # what the softmax over the heads is taken of
    "none": "θ Σ w²",
    "tokens": "θ Σ w² / (sum over tokens)",
    "rms": "θ · mean of w² / (all tokens' mean)",
    "code": "−½ code length",
}
W_BYTES = 2_000_000  # of projected tokens at most; the finest layers of the largest models go without
WIDTH = 640  # pixels of the photo in the page, at most


class Lens:
    """Memberships Π and gates D of a model's TSSA layers on a picture, as a page that answers to the pointer.

    model and image as in `observe.Observer`; `other` is a picture whose gates are tried in place of the picture's own;
    `progress` shows a bar. About half a minute at most for 640 px on two cores. `data` is what the page holds.
    """

    def __init__(
        self,
        model: Any,
        image: Any,
        other: Any = None,
        *,
        imgsz: int | tuple[int, int] | None = None,
        conf: float = 0.25,
        progress: bool = True,
    ):
        from tqdm.auto import tqdm

        observer = Observer(model, imgsz, conf)
        looks = observer(image)
        if len(looks) != 1:
            raise ValueError(f"expected one picture, got {len(looks)}")
        self.look = looks[0]
        for o in self.look.layers:
            views.grid_of(o)  # refuses tokens that come from no map, before the detector is asked
        questions = list(_questions(observer, self.look, other))
        again = image if observer.side else np.ascontiguousarray(self.look.photo[..., ::-1])
        runs = [_run("", "", self.look, self.look)]
        bar = tqdm(questions, desc="asking the detector", leave=False, disable=not progress)
        for key, words, change, layers in bar:
            with intervene(observer.network, change, layers):
                runs.append(_run(key, words, self.look, observer(again, layers=False)[0]))
        name = Path(other).stem if isinstance(other, (str, Path)) else "another picture"
        self.data = _data(self.look, runs, name if other is not None else "")

    def __repr__(self) -> str:
        return f"Lens: {self.data['alt']}"

    def _repr_html_(self) -> str:
        return self._page

    @cached_property
    def _page(self) -> str:
        return fill("lens.html", self.data, views.overview(self.look), self.data["alt"], __NOTE__=NOTE)

    def save(self, path: str | Path) -> Path:
        """Write the page: it needs no kernel, no library and no network."""
        return write(path, "TSSA lens", self._page)


def example() -> tuple[Path, Path]:
    """A picture of blood cells that the ready detector has not been trained on, and another one."""
    first, other = (shipped(f"blood_cells/images/val/BloodImage_{n}.jpg") for n in ("00216", "00148"))
    return first, other


NOTE = (
    "Tolerances: Π to 1/131,070, w to 1/254 of its coordinate's largest, s and D to six digits; boxes are the "
    "detector's own, computed before. "
)


# ---- the runs -----------------------------------------------------------------------------------------
def _questions(observer: Observer, look: Look, other: Any) -> Iterator[tuple[str, str, Any, list[str] | None]]:
    """Key, words, intervention and layers of each run."""
    for i, o in enumerate(look.layers):
        K = o.Pi.shape[1]
        for k in range(K if K > 1 else 0):
            yield f"head:{i}:{k}", f"head {k + 1} at {views.place(o)} off", _head_off(k), [o.name]
        yield f"layer:{i}", f"the layer at {views.place(o)} off", "silenced", [o.name]
    yield "all", "all TSSA updates off", "silenced", None
    if other is not None:
        theirs = {own.layer: o.gates for own, o in zip(look.layers, observer(other)[0].layers)}
        exchanged = lambda layer, w, found: found._replace(gates=theirs[layer].to(found.gates))
        yield "gates", "the gates of another picture", exchanged, None


def _head_off(k: int) -> Callable[[Any, Tensor, Any], Any]:
    """The gates of one head are 0, and so is its update."""

    def change(layer: Any, w: Tensor, found: Any) -> Any:
        D = found.gates.clone()
        D[:, k] = 0
        return found._replace(gates=D)

    return change


def _run(key: str, words: str, before: Look, after: Look) -> dict[str, Any]:
    """What one run found, `from` which box of the first run each of its boxes comes, and that in words."""
    origin = match(before.boxes, after.boxes)
    run: dict[str, Any] = {"key": key, "boxes": after.boxes.round(5).tolist(), "from": origin, "says": "", "short": ""}
    if before.scores is not None and after.scores is not None:
        top = np.argsort(-before.scores)[:5]
        run["scores"] = [[before.names.get(int(i), f"class {i}"), round(float(after.scores[i]), 5)] for i in top]
    if key and len(before.boxes):
        stay = sum(i is not None for i in origin)
        change = [abs(after.boxes[n, 4] - before.boxes[i, 4]) for n, i in enumerate(origin) if i is not None]
        fresh = len(origin) - stay
        run["short"] = f"{stay}/{len(before.boxes)}"
        says = f"{words[0].upper() + words[1:]}: {stay} of {len(before.boxes)} boxes stay"
        if change:
            says += f", their confidence changes by {np.mean(change):.3f} on average and {max(change):.3f} at most"
        run["says"] = says + (f"; {fresh} new." if fresh else ".")
    elif key and before.scores is not None and after.scores is not None:
        best = int(before.scores.argmax())
        run["says"] = (
            f"{words[0].upper() + words[1:]}: {before.names.get(best, f'class {best}')} has "
            f"{after.scores[best]:.3f} instead of {before.scores[best]:.3f}."
        )
    return run


def match(before: np.ndarray, after: np.ndarray) -> list[int | None]:
    """For each box after, the box before that it is: of its class, with an IoU of at least one half, best first."""
    from torchvision.ops import box_iou

    origin: list[int | None] = [None] * len(after)
    same = after[:, None, 5] == before[None, :, 5]
    iou = box_iou(torch.from_numpy(after[:, :4]), torch.from_numpy(before[:, :4])).numpy() * same
    for n, i in sorted(np.argwhere(iou >= 0.5).tolist(), key=lambda pair: -iou[tuple(pair)]):
        if origin[n] is None and i not in origin:
            origin[n] = i
    return origin


# ---- the page -----------------------------------------------------------------------------------------
def _data(look: Look, runs: list[dict[str, Any]], other: str) -> dict[str, Any]:
    H, W = look.picture.shape[:2]
    layers, room = [], W_BYTES
    for o in look.layers:
        w = o.w[0].float().cpu().numpy()  # (K, N, p)
        room -= w.size
        layers.append(_layer(o, w if room > 0 else None))
    seen = views.telling(look)
    whole = next((r for r in runs if r["key"] == "all"), runs[0])
    kept = sum(i is not None for i in whole["from"])
    if len(look.boxes):
        honest = f"with all updates silenced {kept} of {len(look.boxes)} boxes stay."
    elif look.scores is not None:
        best = int(look.scores.argmax())
        silent = dict(whole["scores"])[look.names.get(best, f"class {best}")]
        honest = f"with all updates silenced the answer keeps {silent:.2f} of {look.scores[best]:.2f}."
    else:
        honest = "the detector finds nothing in this picture."
    o = look.layers[seen.layer]
    size = f"{o.stride} × {o.stride}-pixel" if o.stride and o.stride > 1 else "one-pixel"
    read = (
        f"<b><i>Π</i></b>: how the layer shares out each {size} token of the picture among its heads; colour is "
        "the chosen head's part. <b><i>D</i></b>: how much of each coordinate a head then takes away from what it "
        "holds (1 all, 0 nothing)."
    )
    found = f"A picture with {len(look.boxes)} detections, and over it the memberships of a TSSA layer."
    return {
        "size": [W, H],
        "photo": jpeg(_display(look)),
        "layers": layers,
        "names": {int(k): v for k, v in look.names.items()},
        "runs": runs,
        "other": other,
        "honest": honest,
        "sentence": seen.sentence,
        "read": read,
        "opens": {"layer": seen.layer, "head": seen.head, "token": seen.token, "box": seen.box},
        "colors": plots.COLORS,
        "alt": f"{found} {seen.sentence}",
    }


def _layer(o: Observation, w: np.ndarray | None) -> dict[str, Any]:
    K, N = o.Pi.shape[1:]
    stored: dict[str, Any] = {}
    if w is not None:
        scale = np.abs(w).max(1).clip(1e-12) / 127  # (K, p): a coordinate's own
        stored = {"w": text(np.rint(w / scale[:, None]).astype(np.int8)), "scale": numbers(scale)}
    return {
        "name": o.name,
        "place": views.place(o),
        "stride": o.stride,
        "grid": list(views.grid_of(o)),
        "K": K,
        "p": o.gates.shape[-1],
        "even": round(o.entropy.item(), 4),
        "mass": numbers(o.mass),
        "gate": numbers(o.gates.mean(-1)),
        "s": numbers(o.second_moments),
        "D": numbers(o.gates),
        "c": o.layer.c,
        "rule": RULES[o.layer.normalize],
        "Pi": text(np.rint(o.Pi[0].double().cpu().numpy() * 65535).astype("<u2")),
        **stored,
    }


def numbers(a: Tensor | np.ndarray) -> list[float]:
    """Numbers for a page, to six digits."""
    return [float(f"{v:.6g}") for v in np.asarray(a).ravel()]


def text(a: np.ndarray) -> str:
    """An array's bytes as text for a page."""
    return base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()


def _display(look: Look) -> np.ndarray:
    """The photo as sharp as it came, padded as the model saw it."""
    H, W = look.picture.shape[:2]
    if look.scores is not None and H < 64:
        return (look.picture * 255).round().astype(np.uint8)
    x0, y0, x1, y1 = look.inner
    zoom = min(WIDTH, max(look.photo.shape[1], W)) / W
    at = lambda v: round(v * zoom)
    size = max(1, at(x1) - at(x0)), max(1, at(y1) - at(y0))
    photo = Image.fromarray(look.photo).resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (at(W), at(H)), (114, 114, 114))
    canvas.paste(photo, (at(x0), at(y0)))
    return np.asarray(canvas)


def jpeg(picture: np.ndarray) -> str:
    """An RGB picture as a data URL; small ones without loss."""
    buffer = io.BytesIO()
    kind = "png" if max(picture.shape[:2]) < 64 else "jpeg"
    Image.fromarray(picture).save(buffer, format=kind, **({} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def fill(template: str | Path, data: Mapping[str, Any], static: Any, alt: str, **marks: str) -> str:
    """A view's HTML: a template of this package (or a path) with its data, and a picture for where no script runs.

    `static` is a Figure or a data URL. Marks are replaced in one pass, so that no value is read as a mark, and the data
    can't end the script. The id comes from the data: the same view is the same text.
    """
    packed = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    fills = {
        "__ID__": f"{Path(template).stem}-{hashlib.sha1(packed.encode()).hexdigest()[:10]}",
        "__ALT__": html.escape(alt, quote=True),
        "__STATIC__": static if isinstance(static, str) else plots.data_url(static, dpi=80, kind="jpeg"),
        "__PARTS__": (PACKAGE / "parts.js").read_text(encoding="utf-8"),
        "__DATA__": packed,
        **marks,
    }
    page = (PACKAGE / template).read_text(encoding="utf-8")
    return re.sub("|".join(fills), lambda m: fills[m[0]], page)


def write(path: str | Path, title: str, body: str) -> Path:
    """A view as a page of its own."""
    path = Path(path)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{html.escape(title)}</title><style>:root{{color-scheme:light dark}}body{{margin:0}}</style>"
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
    path.write_text(page, encoding="utf-8")
    return path
