# %% [markdown]
# # Lesson 9 · Linear time, counted and measured
#
# [◀ previous](08_tost.ipynb) · [contents](00_start_here.ipynb) · [next ▶](10_inside_yolo11.ipynb)
#
# "Linear in the number of tokens" is the claim that TSSA lives by. We check it in three ways: count the multiplications,
# measure the time against every operator that one would use instead, and ask what the price is, on a task where the
# expensive operator is right and the cheap one is not.
#
# **After this you can**
# - count the multiplications of TSSA and of softmax attention to the unit
# - say from how many tokens on softmax attention costs ten times as much, and why it is never less than twice
# - name what makes one layer faster than another with the same number of multiplications: passes over memory
# - read a roofline picture, and say what cost means for a detector at strides 32, 16 and 8
# - say what TSSA cannot do that softmax attention can, and show it
#
# **You should be able to answer:** Why is the factor between the two never below two? What has to travel between two workers that hold half of the
# tokens each? Which question can softmax attention answer about another token that TSSA cannot?
#
# **Before this:** [lesson 5](05_tssa_update.ipynb) (the update) and [lesson 7](07_the_layer.ipynb) (the layer).
#
# **Time:** about 33 minutes to read, 60 seconds to run on two CPU cores; with Going deeper about 21 minutes more.

# %%
import torch
from IPython.display import Markdown, display

from tssa_lib import tssa
from kit import results_linear_time as results
from kit import DIFFERENCES, LIMIT, agree, attention, check, cost, exercise, plots, show

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
run = results.load()                                                          # the committed measurement

# %% [markdown]
# ## 9.1 Counting by hand
#
# A *multiply–add* is one multiplication and the addition that goes with it: the unit in which matrix products are
# counted. An $a \times b$ matrix times a $b \times e$ matrix takes $abe$ of them. PyTorch's counter says "FLOPs" and
# counts each multiply–add as two. It looks at matrix products only; squares, sums and exponentials are not counted, and section 9.4 comes back to
# what they cost. We count the layer as lesson 7 writes it.
#
# Six tokens in the plane again, three near each axis. With $n$ tokens of width $d$, TSSA projects every token
# ($nd^2$), averages $n$ squares for each of its $Kp = d$ coordinates ($nd$), and maps every token out ($nd^2$).

# %%
six = torch.tensor([[2.0, 0.1], [-1.5, 0.2], [1.0, -0.1],                  # a, b, c
                    [0.1, 1.5], [-0.2, -1.0], [0.1, -0.8]])                # d, e, f
n, d = six.shape
print("by hand:", n * d * d + n * d + n * d * d, "multiply–adds")
print("counted:", cost.operations(tssa.TSSA(d, 2), n, d))

# %% [markdown]
# Softmax attention makes queries, keys and values ($3nd^2$), compares each token with each ($n^2 d$ over all heads),
# averages the values with the resulting weights ($n^2 d$) and maps out ($nd^2$).
#
# $$
# \text{cost of TSSA} = 2nd^2 + nd \tag{9.1}
# $$
#
# *(9.1) Checked. Two linear maps, and one pass for the statistics — Wu et al. 2024 · `cost.operations`*
#
# $$
# \text{cost of softmax attention} = 4nd^2 + 2n^2 d \tag{9.2}
# $$
#
# *(9.2) Checked. Four linear maps, and every token with every token, twice — Vaswani et al. 2017*

# %% tags=["hide-input"]
# checks of (9.1) and (9.2): counted against the formulas, at four sizes
def counted(name, n, d):
    heads = max(d // cost.HEAD_WIDTH, 1)
    return cost.operations(cost.RIVALS[name](d, heads, n), n, d)

sizes = [(6, 2), (400, 128), (1600, 128), (6400, 256)]
n, d = torch.tensor(sizes).T
check("9.1", torch.tensor([counted("TSSA", *s) for s in sizes]), 2 * n * d ** 2 + n * d, "four sizes, to the unit")
check("9.2", torch.tensor([counted("softmax (SDPA)", *s) for s in sizes]), 4 * n * d ** 2 + 2 * n ** 2 * d, "four sizes, to the unit")

# %% [markdown]
# How much cheaper is that? Leave out the small $nd$ and divide.
#
# $$
# \frac{\text{cost of softmax attention}}{\text{cost of TSSA}} \approx \frac{4nd^2 + 2n^2d}{2nd^2} = 2 + \frac{n}{d} \tag{9.3}
# $$
#
# *(9.3) Checked. Never below two, and then it grows by one for every d tokens — this series*
#
# **Predict:** an image of 640 pixels gives 400 tokens of width 128 at stride 32. How much cheaper is TSSA there?
#
# <details><summary>Answer</summary>
#
# $2 + 400/128 = 5.125$. A factor, not a revolution: with few tokens most of the work is in the linear maps, which both
# have. The two in front is because softmax attention has four of them and TSSA has two.
#
# </details>

# %% tags=["hide-input"]
# check of (9.3): the factor, counted
ratio = torch.tensor([counted("softmax (SDPA)", *s) / (counted("TSSA", *s) - s[0] * s[1]) for s in sizes])
check("9.3", ratio, 2 + n / d, "counted, four sizes")
print("400 tokens of width 128:", round(ratio[1].item(), 3))

# %% [markdown]
# **Exercise 9a.** From how many tokens on does softmax attention take $t$ times the multiply–adds of TSSA, by (9.3)?

# %%
def answer_9a(d, t):
    return ...  # your turn: a number of tokens

exercise("9a", answer_9a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_9a(d, t):
#     return d * (t - 2)
# ```
#
# Solve $2 + n/d = t$. Ten times at width 128 needs 1,024 tokens: a picture of 1,024 pixels at stride 32.
#
# </details>

# %% [markdown]
# **Exercise 9b.** From how many tokens on does comparing tokens cost softmax attention more than its four linear maps?

# %%
def answer_9b(d):
    return ...  # your turn: a number of tokens

exercise("9b", answer_9b)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_9b(d):
#     return 2 * d
# ```
#
# $2n^2d = 4nd^2$ at $n = 2d$. Below that, "quadratic attention" is a layer that spends most of its work on linear maps.
#
# </details>

# %% [markdown]
# ## 9.2 The rivals
#
# TSSA is not the only way to avoid $n^2$. `kit/attention.py` holds the operators that people use, each a short class with one
# signature:
#
# - **chunked**: a token sees the $m$ tokens of its own chunk only; **sliding window** the same, around its own place
# - **Linformer** (Wang et al. 2020): keys and values are mixed down to $m$ tokens by a learned matrix
# - **Nyström** (Xiong et al. 2021): softmax attention through $m$ landmark tokens
# - **XCA** (El-Nouby et al. 2021): channels attend to channels, a $p \times p$ matrix for each head
# - **CRATE's MSSA** (lesson 3): one projection for queries, keys and values, quadratic
# - **the rate gradient** (lesson 3): the exact gradient of the coding rate, by a $p \times p$ inverse
#
# What each of them costs to the unit, and how four of them turn into softmax attention: [Going deeper](#The-rivals,-counted).
#
# TSSA does not approximate softmax attention. It is another operator, derived from another objective, and section 9.7
# shows where that matters. Nor is linear time a merit of the variational bound: the exact rate gradient
# takes only about a share $1/K$ more multiply–adds, by (9.4). What the bound removes is the matrix inverse.
#
# *Linear* means that twice as many tokens cost twice as much, *quadratic* that they cost four times as much, in the limit of many tokens.

# %% tags=["hide-input"]
# figure: the share of the work that is not in a linear map
ns = [2 ** i for i in range(5, 17)]
share = {name: [1 - linear * n * 128 ** 2 / counted(name, n, 128) for n in ns] for name, linear in
         (("softmax (SDPA)", 4), ("chunked, 64", 4), ("XCA", 4), ("TSSA", 2))}
show(plots.lines(ns, share, xscale="log", markers=True, vlines={"n = 2d": 256}, title="What is not a linear map, at width 128",
                 xlabel="tokens n", ylabel="share of the multiply–adds"),
     alt="Softmax attention's share of work outside the linear maps rises from near zero to one, crossing one half at "
         "256 tokens; chunked attention levels off at a fifth, XCA stays at a ninth, TSSA at nearly zero",
     digest=f"softmax attention at 256 tokens {share['softmax (SDPA)'][3]:.2f}, at 65,536 {share['softmax (SDPA)'][-1]:.2f}; TSSA {share['TSSA'][-1]:.3f}")

# %% [markdown]
# For TSSA practically everything is in the two linear maps, and nothing
# that is done to the attention can make them cheaper. Keep this in mind when a paper quotes the complexity of an
# operator without its projections.
#
# ## 9.3 Why linear is enough: the statistics add up
#
# What does a token need to know of the others? For TSSA, sums over tokens, in two rounds: first the sums of squares by which (7.2) divides;
# then, once these give Π, the second moments $s_k$ and the masses $n_k$. So the tokens may come in any order and in any number of pieces,
# and nobody needs to meet anybody.
#
# $$
# s_k = \frac{n_k^{(a)} s_k^{(a)} + n_k^{(b)} s_k^{(b)}}{n_k^{(a)} + n_k^{(b)}} \tag{9.6}
# $$
#
# *(9.6) Checked. Statistics of two pieces (a) and (b) merge exactly — this series · `tssa.second_moments`*

# %% tags=["hide-input"]
# check of (9.6): statistics of two pieces, merged
w, Pi = torch.randn(5, 2, 600, 32), torch.randn(5, 2, 600).softmax(1)      # over the two groups; five draws
(wa, wb), (Pa, Pb) = w.split([200, 400], -2), Pi.split([200, 400], -1)
sa, sb = tssa.second_moments(wa, Pa, 0.0), tssa.second_moments(wb, Pb, 0.0)
na, nb = Pa.sum(-1, keepdim=True), Pb.sum(-1, keepdim=True)
check("9.6", tssa.second_moments(w, Pi, 0.0), (na * sa + nb * sb) / (na + nb), "600 tokens in two pieces, five draws")

# %% [markdown]
# Between pieces only $2Kp + K$ numbers are carried, whatever $n$ is: $Kp$ sums of squares, then $Kp$ second moments and $K$ masses. Softmax
# attention has no such summary: which tokens
# matter to a token depends on the token that asks.
#
# **Exercise 9c.** Two workers hold a piece each. Merge what they send: masses `n_a`, `n_b` and moments `s_a`, `s_b`.

# %%
def answer_9c(n_a, s_a, n_b, s_b):
    return ...  # your turn: the second moments of both pieces together

exercise("9c", answer_9c)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_9c(n_a, s_a, n_b, s_b):
#     return (n_a * s_a + n_b * s_b) / (n_a + n_b)
# ```
#
# A mean of means, weighted by mass: equation (9.6).
#
# </details>

# %% [markdown]
# ## 9.4 Multiplications are not time
#
# Between the two linear maps the published layer squares, normalises, sums, divides and multiplies, one operation after the other. Each reads all
# $nd$ numbers from memory and writes as many back. Hardly any of these *passes* is counted in (9.1), yet together they can take longer than the linear
# maps (section 9.5: published − floor, against floor). So the way to a fast layer is to make fewer passes.
#
# `TSSA` does so by default. It squares once, copies nothing for layout, divides no token by a mass, and scales the $d^2$ numbers of the output map in
# place of the $nd$ numbers of the tokens. For the backward pass it keeps tokens, projections, memberships and a few statistics. The result is the same,
# to rounding. How it is done in nine lines, and what a compiler adds: [Going deeper](#The-same-layer-in-few-passes).

# %% [markdown]
# ## 9.5 Measured
#
# `python -m experiments.linear_time` measures all of this: every layer at every size in turns (so that all see the same machine),
# medians of repeats, with versions, threads and the load of the machine written down. What you see here is read from the
# committed run; run the command to get yours. Two references frame the numbers. **Published** is the published
# order of operations, one by one. **Floor** is the two linear maps alone. **Overhead** is the time above the floor, as a share of the
# published layer's: (fast − floor)/(published − floor), so 1 is as slow as published and 0 costs nothing. The goals were set before
# measuring.

# %% tags=["hide-input"]
# the committed run, as tables
print(f"{run['cpu']}, {run['threads']} threads, PyTorch {run['torch']}, load {run['load']:.1f} before and {run['load_end']:.1f} after")
display(Markdown(results.markdown(run)))

# %% tags=["hide-input"]
# figure: time of every operator, and the time above the linear maps
found = results.targets(run)
kept_goal = next(t for t in found if "kept" in t["goal"])
rows = {(r["dim"], r["N"], r["pass"]): r for r in results.overheads(run)}
show(results.curves(run),
     alt="Left: time over the number of tokens for ten operators on logarithmic axes, where softmax attention and MSSA rise "
         "twice as steeply as the rest and TSSA lies lowest or near it. Right: overhead of the fast layer as a share of the published one's",
     digest=f"{sum(t['met'] is True for t in found)} of {sum(t['met'] is not None for t in found)} goals met; activations kept {kept_goal['measured']:.2f} of the published")

# %% [markdown]
# Where is the crossover, the number of tokens from which TSSA is faster than softmax attention? PyTorch's softmax
# attention is as good as such code gets: it never stores the $n \times n$ matrix.

# %% tags=["hide-input"]
# how many times as long softmax attention takes, measured and counted
for n in (400, 1600, 6400, 25600):
    r = rows.get((128, n, "forward"))
    if r and r["softmax_over_fast"]:
        print(f"{n:6} tokens: softmax attention takes {r['softmax_over_fast']:.1f} times as long, multiply–adds {2 + n / 128:.1f} times as many")

# %% [markdown]
# Where the two factors differ, one of the operators uses the machine better, which section 9.6 looks at. By (9.3) there
# should be no crossover at all, since the factor starts above two. Here is a short run on your own machine, at 1,600 tokens, in float32
# on one thread.

# %% tags=["hide-input"]
# a live run at 1,600 tokens: both operators in turns, median of each
torch.set_default_dtype(torch.float32)
x, layers = torch.randn(1, 1600, 128), {"TSSA": tssa.TSSA(128, 4), "softmax attention": attention.Attention(128, 4)}
threads = torch.get_num_threads()
torch.set_num_threads(1)                                                   # two threads wait for each other on a busy machine
live = cost.interleaved({name: cost.forward(f, x) for name, f in layers.items()}, budget=2.0, most=20)
torch.set_num_threads(threads)
torch.set_default_dtype(torch.float64)
for name, t in live.items():
    print(f"{name}: {1e3 * t['median']:.2f} ms")
print("TSSA is faster:", live["TSSA"]["low"] < live["softmax attention"]["low"])

# %% [markdown]
# Memory can be counted exactly. Left: the largest tensor that an operator makes on the way at 6,400 tokens. Right: what it keeps for the
# backward pass.

# %% tags=["hide-input"]
# figure: the largest tensor and what is kept, at 6,400 tokens
at = next(cell["counts"] for cell in run["rivals"] if cell["N"] == 6400)
show(results.memory(run, 6400),
     alt="Two bar charts. Largest tensor: softmax attention written out stands far above all others, which are alike. Kept for the backward pass: "
         "TSSA lowest, the sliding window highest, softmax attention written out not measured",
     digest=f"largest at 6,400 tokens: TSSA {at['TSSA']['largest'] / 2 ** 20:.1f} MiB, softmax written out {at['softmax, written out']['largest'] / 2 ** 20:.0f} MiB; "
            f"kept: TSSA {at['TSSA']['kept'] / 2 ** 20:.1f} MiB, softmax (SDPA) {at['softmax (SDPA)']['kept'] / 2 ** 20:.1f} MiB")

# %% [markdown]
# Only the way of writing softmax attention *out* needs a table of $n \times n$. PyTorch's `scaled_dot_product_attention` (SDPA) computes it in pieces that never are
# in memory together, so its memory is linear too, and what stays quadratic is time.

# %% [markdown]
# ## 9.6 The roofline, and a detector
#
# A processor has two limits: how many multiply–adds it can do in a second, and how many bytes it can fetch. Which one
# binds depends on the *intensity* of an operator, its multiply–adds for each byte that its operations read and write.
#
# $$
# \text{speed} \le \min\left(\text{peak},\; \text{bandwidth} \times \text{intensity}\right) \tag{9.10}
# $$
#
# *(9.10) Definition. The roofline: a slope where memory binds, a ceiling where arithmetic does — Williams et al. 2009*
#
# **Predict:** TSSA has few multiply–adds and softmax attention has many. Which of them comes closer to the peak?
#
# <details><summary>Answer</summary>
#
# Softmax attention, though not by much. In the fused form that never writes its weights to memory it has by far the higher intensity; yet both
# lie to the right of the roof's corner, where more intensity buys nothing. "Uses the machine well" and "is fast" are different things: it
# does many times the work at a rate that is not much higher, and finishes later.
#
# </details>

# %% tags=["hide-input"]
# figure: the roofline of the committed run
cell = next(c for c in run["rivals"] if c["N"] == 6400)
intensity = {name: c["macs"] / c["moved"] for name, c in cell["counts"].items()}
rate = {name: c["macs"] / cell["seconds"][name]["median"] / 1e9 for name, c in cell["counts"].items()}
show(results.roofline(run),
     alt="A roof that rises and then stays level, with ten operators below or near it: MSSA and softmax attention far to the right, "
         "softmax attention written out and the sliding window to the left, TSSA and the other linear operators in between",
     digest=f"intensity of TSSA {intensity['TSSA']:.1f}, of softmax (SDPA) {intensity['softmax (SDPA)']:.0f}, written out {intensity['softmax, written out']:.1f}; "
            f"TSSA does {rate['TSSA']:.0f} billion multiply–adds a second, softmax (SDPA) {rate['softmax (SDPA)']:.0f}")

# %% [markdown]
# Bytes are counted as asked for, whether a cache serves them or the memory, so an operator that finds its numbers in the
# cache may come out above the slope.
#
# Now a detector. It makes maps of a picture at strides 32, 16 and 8: a cell for every $32 \times 32$, $16 \times 16$ or
# $8 \times 8$ pixels. A square picture with sides of $a$ pixels has $n = a^2/r^2$ tokens at stride $r$, and by (9.3) the factor is
# $2 + a^2/(r^2 d)$ ([counted](#The-factor-in-pixels)).

# %% tags=["hide-input"]
# figure: tokens, and the factor as counted, as tables
pixels, strides = torch.tensor([640, 1280, 1920]), torch.tensor([32, 16, 8])
tokens = (pixels[None] // strides[:, None]) ** 2                            # (3, 3)
factor = torch.tensor([[counted("softmax (SDPA)", n, 128) / (counted("TSSA", n, 128) - 128 * n) for n in row] for row in tokens.tolist()])
left, right = plots.row(2, 4.6, 3.2)
plots.heat(tokens / 1000, title="Thousands of tokens", xlabel="side of the picture, pixels", ylabel="stride", numbers=True, ax=left)
fig = plots.heat(factor, title="Softmax over TSSA, multiply–adds", xlabel="side of the picture, pixels", ylabel="stride", numbers=True, ax=right)
for ax in (left, right):
    ax.set_xticks(range(3), pixels.tolist()), ax.set_yticks(range(3), strides.tolist())
show(fig, alt="Two tables of three strides by three picture sizes: tokens from 400 to 57,600, and the ratio of costs, which is largest "
              "for the largest picture at the finest stride",
     digest=f"factor {factor[0, 0]:.1f} at 640 pixels and stride 32, {factor[2, 2]:.0f} at 1,920 pixels and stride 8")

# %% [markdown]
# At stride 32 and 640 pixels, where YOLO11 has its attention, the factor is 5, and the attention is one block of a whole network:
# don't expect a faster detector from swapping it. At stride 8 it is 52, and hundreds for larger pictures.
# [Lesson 10](10_inside_yolo11.ipynb) puts it there.
#
# ## 9.7 When TSSA is the wrong tool
#
# What was given up? Look at what a token learns of the others. The logits, masses and second moments that reach it are
# made of *squares* of the other tokens' projections. So, where the projection has no bias, the sign of every other
# token is lost on it:
#
# $$
# y_q(\pm z_1, \dots, \pm z_{q-1}, z_q, \pm z_{q+1}, \dots) = y_q(z_1, \dots, z_{q-1}, z_q, z_{q+1}, \dots) \tag{9.12}
# $$
#
# *(9.12) Checked. A token's output does not notice if other tokens change their sign — this series*

# %% tags=["hide-input"]
# check of (9.12): other tokens change their sign
layer, x = tssa.TSSA(32, 4, temp=20.0), torch.randn(20, 12, 32)
signs = torch.randint(2, (20, 12, 1)) * 2.0 - 1
signs[:, 0] = 1                                                            # the token that asks stays
check("9.12", layer(signs * x)[:, 0], layer(x)[:, 0], "twenty draws of twelve tokens, random signs")
softmax = attention.Attention(32, 4)
print("softmax attention notices:", bool((softmax(signs * x)[:, 0] - softmax(x)[:, 0]).abs().max() > 0.01))

# %% [markdown]
# More than that: whatever happens elsewhere reaches a token as $d$ second moments, $d$ sums and $K$ masses, the same for
# all tokens. Nothing in them depends on who is asking. Softmax attention, on the contrary, can look one token up:
# the sharper its weights (the larger $\theta$), the closer the answer is to the value that belongs to the best key.
#
# $$
# \sum_j \frac{e^{\theta\, q^\top a_j}}{\sum_l e^{\theta\, q^\top a_l}}\, v_j \;\to\; v_i, \qquad i = \arg\max_j\, q^\top a_j \qquad (\theta \to \infty) \tag{9.13}
# $$
#
# *(9.13) Checked. A query q over keys a and values v: softmax attention is a soft table look-up — Vaswani et al. 2017*

# %% tags=["hide-input"]
# check of (9.13): softmax attention looks a value up
q, a, v = torch.randn(50, 16), torch.nn.functional.normalize(torch.randn(50, 9, 16), dim=-1), torch.randn(50, 9, 4)
match = torch.einsum("bi,bji->bj", q, a)                                   # fifty queries, nine keys each
answer = torch.einsum("bj,bji->bi", (1e6 * match).softmax(-1), v)          # over the keys
check("9.13", answer, v[torch.arange(50), match.argmax(-1)], "fifty look-ups at θ = 1,000,000", LIMIT)

# %% [markdown]
# *Associative recall* makes a task of that. A sequence holds pairs "key, value", each key once; a
# last token names a key; the network has to say its value. The values are drawn anew each time, so there is nothing to
# memorise: the answer must be fetched. One token is one pair, key and value as one-hot vectors.

# %% tags=["hide-input"]
# the task: sequences of pairs and a question
VALUES = 8

def recall(batch, pairs):
    """Sequences (batch, pairs + 1, pairs + VALUES + 1) and the value (batch,) of the key that the last token names."""
    values, asked = torch.randint(VALUES, (batch, pairs)), torch.randint(pairs, (batch,))
    x = torch.zeros(batch, pairs + 1, pairs + VALUES + 1)
    x[:, :pairs, :pairs] = torch.eye(pairs)                                # the keys, in any order: neither layer knows places
    x[:, :pairs, pairs:-1] = torch.nn.functional.one_hot(values, VALUES).to(x)
    x[:, pairs, :pairs] = torch.eye(pairs)[asked]
    x[:, pairs, -1] = 1                                                    # "this is a question"
    return x, values.gather(1, asked[:, None])[:, 0]

# %% [markdown]
# The networks are the same but for the operator: an embedding, one attention layer and one MLP with their residuals, and a
# classifier that reads the last token.

# %% tags=["hide-input"]
# the network: embedding, one attention layer, one MLP, classifier of the last token
class Recall(torch.nn.Module):
    def __init__(self, operator, pairs, dim=32):
        super().__init__()
        self.embed, self.operator = torch.nn.Linear(pairs + VALUES + 1, dim), operator(dim, 4)
        self.norm, self.head = torch.nn.LayerNorm(dim), torch.nn.Linear(dim, VALUES)
        self.mlp = torch.nn.Sequential(torch.nn.LayerNorm(dim), torch.nn.Linear(dim, 128), torch.nn.GELU(), torch.nn.Linear(128, dim))

    def forward(self, x):
        x = self.embed(x)
        x = x + self.operator(self.norm(x))
        return self.head((x + self.mlp(x))[:, -1])

# %% tags=["hide-input"]
# its training: the share of right answers at each step
def train(operator, pairs, steps=300):
    torch.manual_seed(0)
    net = Recall(operator, pairs)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    schedule, right = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps), []
    for _ in range(steps):
        x, y = recall(128, pairs)
        logits = net(x)
        torch.nn.functional.cross_entropy(logits, y).backward()
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        right.append((logits.argmax(-1) == y).double().mean().item())
    return right

# %% [markdown]
# **Predict:** guessing is right one time in eight. How will the two do with 4, 8, 16 and 32 pairs?
#
# <details><summary>Answer</summary>
#
# Softmax attention gets practically all right, whatever the number. TSSA can do it with 4 pairs: the table then has
# $4 \cdot 8 = 32$ places, one for each of its $d = 32$ second moments, and a large second moment can say "this key has this value". With
# more pairs the table outgrows them, and in 300 steps it falls towards guessing.
#
# </details>

# %% tags=["hide-input"]
# train both operators on 4, 8, 16 and 32 pairs
torch.set_default_dtype(torch.float32)
torch.set_num_threads(1)                                                   # tensors this small are not worth sharing
curves = {name: {pairs: train(operator, pairs) for pairs in (4, 8, 16, 32)}
          for name, operator in (("softmax attention", attention.Attention), ("TSSA", tssa.TSSA))}
torch.set_default_dtype(torch.float64)
torch.set_num_threads(threads)
final = {name: [sum(right[-30:]) / 30 for right in runs.values()] for name, runs in curves.items()}

# %% tags=["hide-input"]
# figure: learning to recall, and the share that is right at the end
left, right = plots.row(2, 4.8, 3.8)
smooth = {f"{name}, 32 pairs": torch.tensor(runs[32]).unfold(0, 20, 1).mean(-1) for name, runs in curves.items()}
plots.lines(range(20, 301), smooth, hlines={"guessing": 1 / VALUES}, title="Learning to recall", xlabel="training step", ylabel="share of right answers", ax=left)
fig = plots.lines([4, 8, 16, 32], final, xscale="log", markers=True, hlines={"guessing": 1 / VALUES}, title="After 300 steps",
                  xlabel="pairs in the sequence", ylabel="share of right answers", ax=right)
right.set_xticks([4, 8, 16, 32], [4, 8, 16, 32]), right.minorticks_off()
show(fig, alt="Left: softmax attention learns to recall from 32 pairs within 200 steps, TSSA stays near the line of guessing. Right: over "
              "the number of pairs softmax attention stays at one while TSSA starts there with 4 pairs and falls",
     digest=f"with 32 pairs softmax attention is above 0.95: {final['softmax attention'][-1] > 0.95}, TSSA below 0.35: {final['TSSA'][-1] < 0.35}")

# %% [markdown]
# So: where a token must fetch something from one other token, by its content, TSSA is the wrong tool: what it fetches has to pass through
# the $2d$ sums of (7.22), the same for whoever asks, and training does not widen them. Where tokens belong to a few groups and a group's
# statistics say what matters, as patches of a picture
# often do, it may be the right one. Mixed networks (a few layers of softmax attention among many cheap ones) are the
# usual answer to a task that needs both.
#
# ## Takeaways
#
# - TSSA takes $2nd^2 + nd$ multiply–adds, softmax attention $4nd^2 + 2n^2d$: a factor of $2 + n/d$, never below two.
# - Below $2d$ tokens even softmax attention spends most of its work on linear maps. TSSA always does.
# - Linear time works because its statistics are sums: pieces merge exactly, and $2Kp + K$ numbers say it all.
# - With the multiplications fixed, speed is passes over memory: square once, gate the output map instead of the tokens, copy
#   nothing for layout, keep only tokens, projections and memberships for the backward pass.
# - At 640 pixels the factor is 5 at a detector's stride 32 and 52 at stride 8; larger pictures make it hundreds there.
# - The price: a token sees squares of the others, summed up, the same for all who ask. What it can look up has to pass through these $2d$
#   sums, (7.22).

# %% [markdown]
# ## Going deeper
#
# Each item stands by itself.
#
# ### The rivals, counted
#
# Doubling the tokens doubles a linear cost and quadruples a quadratic one:
#
# $$
# \frac{\text{cost}(2n)}{\text{cost}(n)} \to 2 \quad \text{(linear)}, \qquad \frac{\text{cost}(2n)}{\text{cost}(n)} \to 4 \quad \text{(quadratic)} \tag{9.5}
# $$
#
# *(9.5) Checked. Doubling the tokens, at a million tokens — this series*

# %% tags=["hide-input"]
# check of (9.5): twice the tokens, at a million
many = 2 ** 20
names = ["TSSA", "XCA", "chunked, 64", "softmax (SDPA)", "CRATE's MSSA"]
growth = torch.tensor([counted(name, 2 * many, 128) / counted(name, many, 128) for name in names])
check("9.5", growth, torch.tensor([2.0, 2.0, 2.0, 4.0, 4.0]), ", ".join(names), LIMIT)

# %% [markdown]
# All but the window at any size, with $m$ tokens in a chunk or a summary and heads of width $p$:
#
# $$
# \begin{aligned}
# \text{chunked} &= 4nd^2 + 2nmd &\qquad \text{Linformer} &= 4nd^2 + 4nmd \\
# \text{XCA} &= 4nd^2 + 2npd &\qquad \text{Nyström} &= 4nd^2 + 4nmd + 2m^2d + 24Km^3 \\
# \text{MSSA} &= 2nd^2 + 2n^2d &\qquad \text{rate gradient} &= 2nd^2 + 2npd
# \end{aligned} \tag{9.4}
# $$
#
# *(9.4) Checked. Matrix products of the rivals; Nyström with six steps of its iterated inverse — this series*

# %%
n, d, m, p, K = 1600, 128, 64, 32, 4
formulas = {"chunked, 64": 4 * n * d * d + 2 * n * m * d, "Linformer, 64": 4 * n * d * d + 4 * n * m * d,
            "XCA": 4 * n * d * d + 2 * n * p * d, "CRATE's MSSA": 2 * n * d * d + 2 * n * n * d,
            "Nyström, 64": 4 * n * d * d + 4 * n * m * d + 2 * m * m * d + 24 * K * m ** 3,
            "rate gradient, p × p": 2 * n * d * d + 2 * n * p * d}
check("9.4", torch.tensor([counted(name, n, d) for name in formulas]), torch.tensor(list(formulas.values())), "six rivals, to the unit")

# %% [markdown]
# Four rivals *approximate* softmax attention, and can become it when their $m$ is large enough: chunks, the window, Linformer and Nyström.
# That is how they are tested; a few lines show it for chunks.

# %%
x, exact = torch.randn(1, 60, 64), attention.Attention(64, 2)
for m in (5, 20, 60):
    rival = attention.Chunked(64, 2, chunk=m)
    rival.load_state_dict(exact.state_dict())                              # the same weights
    print(f"chunks of {m:2} tokens: {((rival(x) - exact(x)).norm() / exact(x).norm()).item():.2f} off softmax attention")

# %% [markdown]
# ### The factor in pixels
#
# A square picture with sides of $a$ pixels has $n = a^2/r^2$ tokens at stride $r$. In (9.3):
#
# $$
# \frac{\text{cost of softmax attention}}{\text{cost of TSSA}} \approx 2 + \frac{a^2}{r^2 d} \tag{9.11}
# $$
#
# *(9.11) Checked. The factor grows with the area of the picture and with the inverse square of the stride — this series*

# %% tags=["hide-input"]
# check of (9.11): the factors that section 9.6 shows
check("9.11", factor, 2 + pixels ** 2 / (strides[:, None] ** 2 * 128), "counted, three sizes at three strides, width 128")

# %% [markdown]
# ### The same layer in few passes
#
# Two identities save most of the passes over memory (section 9.4). First, the gates (with the constant $c$ of
# lesson 5; the published layer has $c = 1$) need one fraction only:
#
# $$
# D_k = \frac{c}{1 + c\, s_k} = \frac{c\, n_k}{n_k + c \sum_j \pi_{jk}\, w_{kj}^2} \tag{9.7}
# $$
#
# *(9.7) Checked. No token is divided by a mass — this series · `tssa.gates`*
#
# Second, scaling coordinates and then mapping out is one map whose columns are scaled, and that map has $d^2$ numbers
# where the tokens have $nd$. With $O$ the output map, $\odot$ the product entry by entry, and $y$ the tokens $\pi_{jk} w_{kj}$ side by side:
#
# $$
# O\,(D \odot y) = (O\, \mathrm{Diag}\, D)\, y \tag{9.8}
# $$
#
# *(9.8) Checked. The gates move from the tokens into the output map — this series · `fast.fast_tssa`*

# %% tags=["hide-input"]
# checks of (9.7) and (9.8): gates of one fraction, gates moved into the output map
sums, mass = (Pi[..., None] * w ** 2).sum(-2), Pi.sum(-1, keepdim=True)    # (5, K, p), (5, K, 1)
D = tssa.gates(tssa.second_moments(w, Pi, 0.0), 3.0)
check("9.7", D, 3 * mass / (mass + 3 * sums), "c = 3, five draws")
O, y = torch.randn(64, 64), (Pi[..., None] * w).transpose(1, 2).flatten(2)  # (5, N, C)
gate = D.flatten(1)[:, None]                                               # (5, 1, C)
check("9.8", (gate * y) @ O.T, y @ (O * gate).mT, "gated tokens, against a gated map")

# %% [markdown]
# With these two the layer fits on one screen. Squares are formed once; the logits and the sums of (9.7) are matrix products with them (so
# the counter sees $2nd^2 + 2nd$ here: the logits, element by element before, are now counted too). And nothing is copied to bring heads or
# tokens to the front: the tokens stay $n$ rows of $d$
# numbers, as the linear maps make and take them, and a head is a view of every $p$ columns.

# %%
def my_fast(x, W, temp, O):
    K, p = len(temp), W.shape[0] // len(temp)
    w = (x @ W.T).view(-1, K, p)                                           # (N, K, p)
    w2 = w * w                                                             # the squares, once
    Pi = ((temp / w2.sum(0))[:, None] @ w2.permute(1, 2, 0)).softmax(0)    # (K, 1, N), over the heads
    sums, mass = Pi @ w2.transpose(0, 1), Pi.sum(-1, keepdim=True)         # (K, 1, p), (K, 1, 1)
    D = mass / (mass + sums)                                               # (9.7)
    y = (w * Pi.permute(2, 0, 1)).flatten(1)                               # (N, C)
    return y @ (-O * D.flatten()).T                                        # (9.8)

# %% [markdown]
# On the six tokens it is the literal formula of lesson 7, loops and all (which adds $10^{-8}$ to every mass, as published); on 400 tokens of width 128 it is the library's
# `fast_tssa`, which is what `TSSA` runs by default. The literal and the straightforward form stay beside it for readers.

# %%
temp = torch.ones(2, 1)
agree(my_fast, tssa.tssa_literal, six, torch.randn(2, 2), temp, torch.randn(2, 2), tol=DIFFERENCES)

# %%
def my_batch(x, temp, W, bias, O):
    return my_fast(x[0], W, temp, O)[None]

x, W, O = torch.randn(1, 400, 128), torch.randn(128, 128) / 11, torch.randn(128, 128) / 11
agree(my_batch, tssa.fast_tssa, x, torch.ones(4, 1), W, None, O, mass=0.0)

# %% [markdown]
# The library's version adds two things: it takes care of dead channels and of every switch of lesson 7, and it has a
# backward pass written by hand. What a layer *keeps* for that pass is the memory that training needs. Automatic differentiation keeps
# the input of nearly every operation; by hand, squares and gates can be formed again when they are needed.
#
# $$
# \text{numbers kept} = 2nd + nK + 3d + K \tag{9.9}
# $$
#
# *(9.9) Checked. The tokens, their projections, the memberships and the statistics — this series · `cost.kept_bytes`*

# %% tags=["hide-input"]
# check of (9.9): numbers kept for the backward pass
kept = []
for n, d, K in ((400, 128, 4), (1600, 128, 4), (700, 96, 3)):
    layer, x = tssa.TSSA(d, K), torch.randn(1, n, d, requires_grad=True)
    kept.append((cost.kept_bytes(layer, x) // 8, 2 * n * d + n * K + 3 * d + K))  # 8 bytes a number
check("9.9", *torch.tensor(kept).T, "numbers in float64 kept for the backward pass, three sizes")

# %% [markdown]
# A compiler can go further than any order of PyTorch's operations, because it writes the loops itself: `torch.compile`
# reads a token once for several steps. How many loops it needs depends on how the sums are written. Dividing every
# membership by its mass *before* summing squares needs the mass first, which is a loop of its own; dividing after the sum,
# as (9.7) does, needs none. The library's straightforward form, `core.token_update`, is written so, and `TSSA` takes it when it is compiled.

# %%
w, temp = torch.randn(2, 4, 600, 32), torch.ones(4, 1)                     # (B, K, N, p)

def step_by_step(w, temp):
    Pi = tssa.memberships(w, temp)                                         # (B, K, N)
    share = Pi / Pi.sum(-1, keepdim=True)                                  # divided before the sum
    D = tssa.gates((share[..., None] * w ** 2).sum(-2))                    # (B, K, p)
    return -w * Pi[..., None] * D[..., None, :]

agree(step_by_step, tssa.token_update, w, temp, mass=0.0)

# %% [markdown]
# ### The same on a GPU
#
# Read this without a GPU: what it says is counted, and measured times are shown where a card was measured.
#
# A GPU computes faster than it fetches. An H100 fetches 3.35 TB a second from its memory and does 33.5 trillion multiply–adds in float32 in
# that second, by its data sheet (SXM, outside of the matrix units): ten for each byte. The update between the two linear maps does about eight
# for each *number* of its tokens. So memory is its limit, and its time is its bytes over 3.35 TB/s, at best. How many bytes does it
# move? In units of the projected tokens, which have $nd$ numbers of $b$ bytes:

# %%
def bytes_of(f, *inputs):
    with torch.no_grad(), cost.Moved() as count:
        f(*inputs)
    return count.moved

def journeys(dtype, n=1600, d=256, K=8):
    """How often the bytes of the tokens travel between processor and memory: published order, term by term."""
    layer, temp = tssa.TSSA(d, K).to(dtype), torch.ones(K, 1, dtype=torch.float32)
    x, w = torch.randn(1, n, d, dtype=dtype), torch.randn(1, K, n, d // K, dtype=dtype)
    published = bytes_of(lambda x: cost.published(layer, x), x) - bytes_of(lambda x: cost.floor(layer, x), x)
    return {"published order": published / x.nbytes, "term by term": bytes_of(tssa.token_update, w, temp) / x.nbytes}

made = {name: journeys(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
for name, times in made.items():
    print(f"{name:8}:", ", ".join(f"{form} {t:.1f} times" for form, t in times.items()))

# %% [markdown]
# Half precision, in which networks are trained, should take half the time. Term by term it takes more: squares overflow in float16 (lesson 7), so
# the tokens are widened to float32, and each widened tensor is written to memory and read again. (The published order does not widen, and
# overflows.)
#
# What is the least? The gates need all memberships, and these need all sums of squares. So, unless the tokens fit into a cache, each must be read
# three times, and the update written once. *Fusing* reaches that: take a tile of tokens, do with it all that can be done, keep sums, forget
# the rest. Widening then costs nothing, because it happens where the arithmetic is. Between two readings only the sums of section 9.3 remain.
#
# $$
# \text{bytes moved} = (3 + 1)\, b\, n\, d \tag{9.14}
# $$
#
# *(9.14) Checked. The update in tiles: three reads and one write, the sums left out — this series · `tssa.TSSA.in_kernels`*

# %%
moved = []                                                                 # bytes, as they are read and written

def fetch(w, at):
    moved.append(w[..., at, :].nbytes)
    return w[..., at, :]

def in_tiles(w, temp, tile=64):
    """−π D w of projected tokens (…, K, N, p), one tile after the other."""
    tiles = [slice(j, min(j + tile, w.shape[-2])) for j in range(0, w.shape[-2], tile)]
    size = sum((fetch(w, at) ** 2).sum(-2) for at in tiles)                # (…, K, p), the first reading
    a, total, n, y = (temp / size)[..., None, :], 0.0, 0.0, torch.empty_like(w)
    for at in tiles:                                                       # the second reading
        w2 = fetch(w, at) ** 2
        Pi = (a * w2).sum(-1).softmax(-2)                                  # (…, K, tile), over the heads
        total, n = total + (Pi[..., None] * w2).sum(-2), n + Pi.sum(-1)    # (…, K, p), (…, K)
    D = (n[..., None] / (n[..., None] + total))[..., None, :]              # (…, K, 1, p), (9.7)
    for at in tiles:                                                       # the third reading, and the writing
        w_at = fetch(w, at)
        y[..., at, :] = -(a * w_at ** 2).sum(-1).softmax(-2)[..., None] * D * w_at
        moved.append(w_at.nbytes)
    return y

# %% tags=["hide-input"]
# check of (9.14): bytes that the update moves in tiles, which give the library's update
counted = []
for (K, N, p), dtype in (((4, 600, 32), torch.float64), ((3, 1000, 5), torch.float32), ((1, 50, 7), torch.float64)):
    moved.clear()
    in_tiles(torch.randn(2, K, N, p, dtype=dtype), torch.ones(K, 1, dtype=dtype))
    counted.append((sum(moved), 4 * dtype.itemsize * 2 * N * K * p))       # two pictures
check("9.14", *torch.tensor(counted, dtype=torch.float64).T, "bytes, three sizes, float64 and float32")
agree(in_tiles, tssa.token_update, torch.randn(2, 3, 600, 5), torch.ones(3, 1), mass=0.0)

# %% [markdown]
# `fused.py` is this in [Triton](https://triton-lang.org), a language for such kernels that looks like PyTorch. A *kernel* is a function of which a GPU
# runs thousands of copies at once, called programs. Here is the second reading. `tl.program_id` says which program this is: which picture it has,
# and at which tile it begins. `tl.load` fetches a tile, wherever its numbers lie in memory, with zeros where nothing is there. From then on all is arithmetic in
# registers. At the end each program leaves its own sums, which are added up afterwards, always in one order. The three kernels of the
# backward pass are made alike: of the tokens they keep nothing but $w$, as it is.

# %% tags=["hide-input"]
# the kernel of the second reading, from the library's file
import ast
from pathlib import Path

text = Path(tssa.__file__).with_name("fused.py").read_text(encoding="utf-8")
functions = {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
shown = ["@triton.jit\n" + ast.get_source_segment(text, functions[name]) for name in ("_memberships", "_moments")]
display(Markdown("```python\n" + "\n\n".join(shown) + "\n```"))

# %% [markdown]
# On the roofline of (9.10) a form's place is known before it is measured: its multiply–adds are eight for each number, its bytes are counted above.
# Under the slope, twice the intensity is half the time.
#
# **Predict:** by which factor could the kernels beat the published order in bfloat16, between the linear maps? And could better arithmetic help?
#
# <details><summary>Answer</summary>
#
# By the bytes: its journeys, counted above, over four, so about four times. No: the corner of the roof is at ten multiply–adds a byte, and the best form has one.
#
# </details>

# %% tags=["hide-input"]
# figure: where the forms of the update stand under an H100's roof, by their bytes
bandwidth, peak, each = 3.35e12, 33.5e12, 8                                # bytes and multiply–adds a second; multiply–adds a number
grid = [10 ** (i / 25) for i in range(-40, 51)]
(ax,) = plots.row(1, 7.5, 4.4)
fig = plots.lines(grid, {"the card's limits": [min(peak, bandwidth * x) / 1e12 for x in grid]}, xscale="log", yscale="log", ax=ax,
                  title="The update under an H100's roof, by counted bytes", xlabel="multiply–adds for each byte moved",
                  ylabel="trillion multiply–adds per second")
at_most = {}
for i, (name, b) in enumerate((("float32", 4), ("bfloat16", 2))):
    for j, (form, times) in enumerate({**made[name], "kernels": 4}.items()):
        x = each / (b * times)
        at_most[form, name] = 1e3 * times * b * 16 * 25600 * 256 / bandwidth  # milliseconds for 16 pictures of 25,600 tokens
        ax.plot(x, bandwidth * x / 1e12, "os^"[j], color=plots.COLORS[i + 1], markersize=9, linestyle="none", label=f"{form}, {name}")
ax.legend(fontsize=8, loc="lower right")
show(fig, alt="A roof that rises to ten multiply–adds a byte and is level from there. Six points on its slope: term by term in bfloat16 lowest, then the "
              "published order and term by term in float32, the kernels in float32 and, highest, in bfloat16, still far left of the corner",
     digest="; ".join(f"{form}, {name}: {t:.2f} ms at best" for (form, name), t in at_most.items()))

# %% [markdown]
# These are bounds, for 16 pictures of 25,600 tokens of width 256. What a card really does:

# %% tags=["hide-input"]
# the run that is committed, if there is one
from kit import results_linear_time_gpu as on_gpu

found = on_gpu.load()
display(Markdown(on_gpu.markdown(found) if found else
                 f"No card has been measured yet. `{on_gpu.COMMAND}` does it, in five minutes on an NVIDIA GPU; then this lesson, built again, shows it."))

# %% [markdown]
# ## Sources
#
# - Z. Wu et al.: *Token Statistics Transformer*, 2024: the operator and the published layer that is the reference here.
# - A. Vaswani et al.: *Attention is all you need*, 2017. S. Wang et al.: *Linformer*, 2020. Y. Xiong et al.: *Nyströmformer*, 2021.
#   I. Beltagy et al.: *Longformer*, 2020. A. El-Nouby et al.: *XCiT*, 2021. Y. Yu et al.: *White-box transformers*, 2023.
# - S. Williams, A. Waterman, D. Patterson: *Roofline: an insightful visual performance model*, Communications of the ACM 52(4), 2009.
# - NVIDIA: *H100 Tensor Core GPU data sheet*, 2023: the limits of the card. P. Tillet et al.: *Triton*, MAPL 2019: the language of the kernels.
# - S. Arora et al.: *Zoology: measuring and improving recall in efficient language models*, 2023: associative recall as a test.
#
# [◀ previous](08_tost.ipynb) · [contents](00_start_here.ipynb) · [next ▶](10_inside_yolo11.ipynb)
