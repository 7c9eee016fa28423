"""What the generator of README says, in Chinese: cell by cell, each number as it is.

In a template `#` stands for a number and `…` for anything; in its Chinese, `{}` or `{0}`, `{1}` for what stood there.
"""

import re

WORDS = {
    # ---- the map
    "lesson": "课程",
    "from → to": "从 → 到",
    "read": "阅读",
    "run": "运行",
    "# min": "{} 分钟",
    "# s": "{} 秒",
    "[Start here](…)": "[从这里开始]({})",
    "a photo and its groups; the map": "一张照片及其分组；课程地图",
    "[The coding rate](…)": "[编码率]({})",
    "tokens → R(Z)": "词元 → R(Z)",
    "[Rate reduction (MCR²)](…)": "[率约简（MCR²）]({})",
    "R − R_c, the MCR² objective": "R − R_c，即 MCR² 的目标",
    "[A step of compression is attention](…)": "[压缩一步就是注意力]({})",
    "one gradient step → MSSA (CRATE), quadratic": "一步梯度 → MSSA（CRATE），二次代价",
    "[The variational bound](…)": "[变分上界]({})",
    "Theorem 1, the gap, p < d": "定理 1、间隙、p < d",
    "[The TSSA update](…)": "[TSSA 更新]({})",
    "the variational rate → TSSA, the step-size theorem": "变分编码率 → TSSA，步长定理",
    "[Memberships](…)": "[隶属度]({})",
    "Π, on photos": "照片上的 Π",
    "[The layer that people run](…)": "[大家实际在用的层]({})",
    "formula → the layer that people run": "公式 → 实际在用的层",
    "[ToST, trained](…)": "[训练 ToST]({})",
    "the block, trained on digits": "在手写数字上训练整个模块",
    "[Linear time, counted and measured](…)": "[线性时间：计数与实测]({})",
    "cost, rivals, roofline": "代价、同类方法、屋顶线模型",
    "[Inside YOLO11: where attention lives, and how TSSA takes its place](…)": (
        "[YOLO11 内部：注意力在哪里，TSSA 如何取而代之]({})"
    ),
    "where attention lives; C2TSSA in its place": "注意力所在之处；换上 C2TSSA",
    "[Does a detector need it?](…)": "[检测器需要它吗？]({})",
    "a positive control; when attention pays, and when it can't": "阳性对照；注意力何时值得，何时不可能值得",
    "[Train YOLO with TSSA](…)": "[训练带 TSSA 的 YOLO]({})",
    "train, look, measure, export": "训练、观察、测量、导出",
    # ---- what is measured
    "what": "内容",
    "figure": "数值",
    "from": "出处",
    "the same": "同上",
    "numbered equations, of them checked at every run": "编号公式数，其中每次运行都检验的",
    "which colour is rare? a detector whose convolutions see a part of the scene: mAP50, # seeds, difference from no "
    "attention, 95 % interval": (
        "哪种颜色是少数？卷积只看得到场景一部分的检测器：mAP50，{} 个种子，与无注意力之差及 95% 置信区间"
    ),
    "which colour is rare? YOLO11n itself: mAP50, # seeds, difference from no attention, 95 % interval": (
        "哪种颜色是少数？YOLO11n 本身：mAP50，{} 个种子，与无注意力之差及 95% 置信区间"
    ),
    "# without attention; …; TSSA improved, trained and then silenced: #": (
        "无注意力 {}；{}；TSSA improved 训练后再静默：{}"
    ),
    "sets of # tokens, # colours, width #, # seeds, chance #: has this token a twin of its colour? "
    "Mean average precision": (
        "{} 个词元的集合，{} 种颜色，宽度 {}，{} 个种子，随机水平 {}：这个词元有同色的伙伴吗？AP 的均值"
    ),
    "sets of # tokens, # colours, width #, # seeds, chance #: is its colour the rarer of two? Mean average precision": (
        "{} 个词元的集合，{} 种颜色，宽度 {}，{} 个种子，随机水平 {}：它的颜色是两种中较少的那种吗？AP 的均值"
    ),
    "…; softmax minus TSSA improved # [#, #]": "{}；softmax 减 TSSA improved {} [{}, {}]",
    "blood cells, test pictures: mAP50, # seeds, difference from no attention at the same places": (
        "血细胞，测试集：mAP50，{} 个种子，与相同位置无注意力之差"
    ),
    "the same detectors silenced, minus untouched, validation pictures": ("同一批检测器，静默后减去原样，验证集"),
    "the fair trial: attention in YOLO11n against none on digit scenes of # px, # seeds; intervals that exclude "
    "zero": "公平对比：YOLO11n 有无注意力，{} 像素的数字场景，{} 个种子；置信区间不含零的",
    "# of #": "{1} 个中有 {0} 个",
    "one switch of TSSA at a time against the published form": "每次只改 TSSA 的一个开关，与发表版相比",
    "the ready detector of blood cells (TSSA at P3, P4, P5; # epochs at # px, one seed), on the test pictures": (
        "自带的血细胞检测器（TSSA 在 P3、P4、P5；{} 轮，{} 像素，一个种子），测试集"
    ),
    "mAP50 # (…)": "mAP50 {}（{}）",
    "…: the recipe that looks (`auto`) beside Ultralytics' default, mAP50 after # epochs at # px from scratch, "
    "# seeds": "{}：先看数据的训练方案（`auto`）与 Ultralytics 默认方案，从头训练 {} 轮，{} 像素，mAP50，{} 个种子",
    "# against #; differences …": "{} 对 {}；差 {}",
    "TSSA (eager or compiled, the faster) against softmax attention (SDPA), forward, width 128, # CPU thread(s), "
    "load #": "TSSA（即时执行与编译中较快者）对比 softmax 注意力（SDPA），前向，宽度 128，{} 个 CPU 线程，负载 {}",
    "… times as fast at 1,600, 6,400, 25,600 tokens": "1,600、6,400、25,600 个词元时速度分别为后者的 {} 倍",
    "what our TSSA costs beyond its two linear maps, as a share of what the published order costs": (
        "我们的 TSSA 在两个线性映射之外的耗时，占原实现次序相应耗时的比例"
    ),
    "… at 400, 1,600, 6,400, 25,600 tokens": "400、1,600、6,400、25,600 个词元时为 {}",
    "TSSA-YOLO11n over YOLO11n with softmax by SDPA, one picture at 640, 1,280, 1,920 px, # CPU threads": (
        "TSSA-YOLO11n 与用 SDPA 计算 softmax 的 YOLO11n 之比，一张 640、1,280、1,920 像素的图像，{} 个 CPU 线程"
    ),
    "time …; memory …": "时间 {}；内存 {}",
    "YOLO11n with a block at P3, P4 and P5, one picture of 640 px, # CPU thread": (
        "P3、P4、P5 都有该模块的 YOLO11n，一张 640 像素的图像，{} 个 CPU 线程"
    ),
    "no attention # ms, softmax, written out # ms, softmax (SDPA) # ms, TSSA # ms; YOLO11n as it is (softmax, written "
    "out, at P5 alone) # ms": (
        "无注意力 {} 毫秒，逐步写出的 softmax {} 毫秒，softmax（SDPA）{} 毫秒，TSSA {} 毫秒；"
        "原版 YOLO11n（仅 P5 有逐步写出的 softmax）{} 毫秒"
    ),
    "the same of 1,920 px: softmax (SDPA) over TSSA": "同上，1,920 像素：softmax（SDPA）与 TSSA 之比",
    "time #, multiply–adds #, memory #": "时间 {}，乘加次数 {}，内存 {}",
    "ToST on 8×8 digits, θ = 1, # seeds, held-out accuracy": "ToST，8×8 手写数字，θ = 1，{} 个种子，留出集准确率",
    "tied #, untied #": "绑定 {}，不绑定 {}",
    "its trained blocks whose TSSA step lowers the variational rate": "训练后 TSSA 一步使变分编码率下降的模块",
    "tied # of #, untied # of #": "绑定：{1} 个中有 {0} 个；不绑定：{3} 个中有 {2} 个",
}
STANDS_FOR = {"#": r"([-+]?[\d.,]*\d)", "…": r"(.+?)"}
TEMPLATES = [
    (re.compile("".join(STANDS_FOR.get(c, re.escape(c)) for c in words)), chinese) for words, chinese in WORDS.items()
]
NO_WORDS = re.compile(r"[^A-Za-z]*(\[\w+\.\w+\]\(\S+\)(, )?)*")  # a number, the name of a file
NAMES = re.compile(r"((none|SE|XCA|softmax|TSSA published|TSSA improved)( at P3\+P4\+P5| at P5)? [-+\d.,\[\] ]+)+")


def chinese(cell: str) -> str:
    """A cell of a table in Chinese; blocks keep the names that they have in the figures."""
    if NO_WORDS.fullmatch(cell) or NAMES.fullmatch(cell):
        return cell
    for template, words in TEMPLATES:
        if found := template.fullmatch(cell):
            return words.format(*found.groups())
    raise ValueError(f"expected Chinese for {cell!r} in experiments/readme_zh.py, found none")


def lines(english: list[str]) -> list[str]:
    """The rows of a table in Chinese."""
    return [line if line.startswith("|-") else _row(line) for line in english]


def _row(line: str) -> str:
    cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
    return f"| {' | '.join(map(chinese, cells))} |"
