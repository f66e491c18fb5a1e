#!/usr/bin/env python3
"""Makes fixtures/tokenizer/: hard texts with the token ids that the reference gives them.

The truth for SigLIP 1 is the slow SiglipTokenizer of transformers 4.42.4 with sentencepiece 0.2.0:

    pip install transformers==4.42.4 sentencepiece==0.2.0 protobuf
    python tools/make_tokenizer_fixtures.py siglip SPIECE_MODEL

The truth for SigLIP 2 is the tokenizer.json of google/siglip2-base-patch16-224 with lower-casing before it, as
Siglip2Tokenizer of transformers 5 has it (any version of `tokenizers` gives the same):

    python tools/make_tokenizer_fixtures.py siglip2 TOKENIZER_JSON

`siglip` also trains three tiny SentencePiece models (with byte fallback, without it, with user-defined symbols) and
`siglip2` a tiny one like Gemma's, so that everything is tested without a big file.
"""

import io
import json
import random
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "tokenizer"
CONTEXT = 64
SENTENCES = [
    "a photo of a cat", "a photo of the dog", "the quick brown fox jumps over the lazy dog", "two cats on a couch",
    "an image which contains many things", "1 2 3 4 5 6 7 8 9 10", "é ü ß ñ",
] * 20


def corpus():
    texts = [
        # Ordinary captions.
        "",
        " ",
        "a",
        "A",
        "a photo of a cat",
        "A photo of a cat.",
        "An image from ImageNet's n01693334 category which contains images of green lizard, Lacerta viridis.",
        "This is a photo of 2 cats lying on a pink couch with 2 remote controls!",
        "the quick brown fox jumps over the lazy dog",
        "3.14159 is not 22/7; 1,000,000.00 USD == $1e6",
        "https://example.com/a/b?c=d&e=f#g user@example.com",
        "snake_case camelCase kebab-case SCREAMING_CASE",
        "don't can't won't it's o'clock rock'n'roll",
        "e=mc^2, a<b, b>a, a<=b, a=>b, a->b, <<a>>, </a>, <a/>",
        # Punctuation.
        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        "...",
        ". . .",
        ".a",
        ". a",
        " . a",
        "a .",
        "a . ",
        "a.b",
        "a - b",
        "--- a --- b ---",
        "_",
        "_a_",
        "a_b",
        "a __ b",
        "“curly” ‘quotes’ – — … • ¿qué? ¡sí! «guillemets» „low“",
        "。、，！？：；「」『』（）【】《》〈〉",
        "¡™£¢∞§¶•ªº–≠œ∑´®†¥¨ˆøπåß∂ƒ©˙∆˚¬æΩ≈ç√∫˜µ≤≥÷",
        # White space of every kind.
        "  a  photo   of\ta\ncat  ",
        "\n",
        "\t\t",
        "\r\n",
        "a\nb",
        "A\nB\nC",
        "\na",
        "a\r\nb\rc",
        "\u00a0a\u00a0b\u00a0",
        "a\u3000b",
        "\u3000a",
        "a\u2003b\u2009c\u200ad",
        "a\u200bb",
        "\u200ba",
        "a\u200b",
        "\u200b",
        "a\u200b b",
        "a \u200b b",
        "a\ufeffb",
        "\ufeffa",
        "\ufeff",
        "a\u2060b",
        "a\u2028b\u2029c",
        "a\u0085b",
        "\u0085",
        "a\u1680b\u202fc\u205fd",
        "a\u180eb",
        "a\x0bb\x0cc",
        "a\x1cb\x1dc\x1ed\x1fe",
        "\x1ca",
        " \u200b \u00a0 \u3000 ",
        # Control characters.
        "\x00",
        "a\x00b",
        "\x00a",
        "a\x00",
        "\x00\x00",
        "a\x01b\x02c\x08d",
        "\x7fa\x7f",
        "a\x1bb",
        "".join(chr(c) for c in range(1, 32)),
        "".join(chr(c) for c in range(128, 160)),
        "a\u00adb",
        "\u200e\u200fa\u202ab\u202c",
        "\u2066a\u2069",
        "\u061ca",
        # The special strings.
        "</s>",
        "<unk>",
        "<pad>",
        "<s>",
        "<mask>",
        "<bos> <eos>",
        "</S>",
        "<UNK>",
        "<un\u212a>",
        "a </s> b",
        "a</s>b",
        "a </s>",
        "a</s>",
        "</s>a",
        "</s> a",
        "  </s>  a",
        ".</s>a",
        ". </s> .a",
        "</s></s>",
        "</s> </s>",
        "a</s></s>",
        "a</s> </s> b",
        "<unk>a",
        "a<unk>b",
        "a <unk> b",
        "<unk><unk>",
        "<unk></s>",
        "</s><unk>",
        "a<unk>",
        "a\u00a0<unk>\u3000b",
        "a\u200b<unk>\u200bb",
        "<<unk>>",
        "<</s>>",
        "< /s>",
        "</ s>",
        "</s",
        "/s>",
        "<unk",
        "unk>",
        "<pad> a </s> <s> b",
        "＜／ｓ＞",
        "＜ｕｎｋ＞",
        "＜０ｘ４１＞",
        "<0x41>",
        "</s>＞＞＞",
        "</s>＝＞",
        "a</s>．",
        # SentencePiece's own mark.
        "▁",
        "▁a",
        "a▁b",
        "▁▁a▁▁b▁▁",
        "a ▁ b",
        "▁</s>▁",
        # Case.
        "ΣΟΣ",
        "ὈΔΥΣΣΕΎΣ",
        "İstanbul",
        "I ı İ i",
        "STRASSE Straße ẞ",
        "Ǆ ǅ ǆ",
        "ÀÉÎÕÜ",
        "ПРИВЕТ МИР",
        "ԱԲԳ",
        "ⅫⅣ ⓐⒶ",
        "\u212a \u2126 \u212b",
        "ᏣᎳᎩ",
        "𐐀𐐁",
        "ﬁﬂﬀﬃﬆ ﬓ",
        "ŉ ǰ ΐ ΰ",
        "ᾈ ᾳ ᾼ",
        # Composition and compatibility.
        "é e\u0301 E\u0301",
        "ö o\u0308 Ö O\u0308",
        "a\u0301\u0302\u0303\u0304b",
        "e\u0323\u0302 e\u0302\u0323 ệ",
        "q\u0307\u0323 q\u0323\u0307",
        "\u0301",
        "\u0301a",
        " \u0301a",
        "한국어 한국어",
        "\u1112\u1161\u11ab \u1100\u1173\u11af",
        "ｆｕｌｌ－ｗｉｄｔｈ ＡＢＣ １２３ ！？",
        "ﾊﾝｶｸ ｶﾞｷﾞ ﾊﾟ",
        "① ② ㈱ ㍿ ㎏ ㏑ ½ ¼ x² H₂O ™ ℡ №",
        "ĳ ŀ ſ ẛ̣ ﷺ",
        "Ａ\u0301",
        "~ ～ \u0303 \u02dc \u223c 〜",
        "\u2011 \u2010 \u2212 \u2500",
        "\u0340\u0341\u0343\u0344 \u0374 \u037e \u0387",
        # Scripts.
        "Привет, мир! Это фотография кота.",
        "Γειά σου Κόσμε",
        "مرحبا بالعالم، هذه صورة قطة",
        "שלום עולם, זו תמונה של חתול",
        "שָׁלוֹם",
        "سلام\u200cدنیا",
        "नमस्ते दुनिया, यह एक बिल्ली की तस्वीर है",
        "க்ஷ ஸ்ரீ வணக்கம்",
        "বাংলা ভাষা",
        "สวัสดีชาวโลก ภาพแมว",
        "你好，世界！一只猫的照片。",
        "こんにちは世界。猫の写真です。",
        "안녕하세요 세계",
        "ສະບາຍດີ ຊາວໂລກ",
        "გამარჯობა მსოფლიო",
        "ᚠᚢᚦᚨᚱᚲ",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒎𝒂𝒕𝒉 𝟘𝟙𝟚",
        "𓀀𓂀",
        "𠮷野家",
        "mixed 中文 and العربية and русский",
        # Emoji.
        "😀",
        "a 😀 b",
        "👨‍👩‍👧‍👦 family",
        "👩🏽‍💻 🏳️‍🌈 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "❤️ ❤ ☺️",
        "🇩🇪🇫🇷",
        "1️⃣ #️⃣",
        "😀😀😀😀😀😀😀😀😀😀",
        # Odd code points.
        "\ufffd",
        "\ufffe\uffff",
        "\ue000",
        "\U0010ffff",
        "\u0378",
        "\U000e0001\U000e0020",
        # Long.
        "a photo of a cat " * 20,
        "word " * 62,
        "word " * 63,
        "word " * 64,
        "word " * 63 + "</s>",
        "word " * 64 + "</s>",
        "word " * 62 + "</s> word",
        "x" * 10_000,
        "ab c" * 2_500,
        "。" * 1_000,
        "😀" * 500,
        "é" * 100,
        "a" + " " * 5_000 + "b",
        "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
        "1234567890" * 12,
    ]
    # Random mixtures find what nobody thinks of.
    rng = random.Random(0)
    parts = (
        list("aAzZéß09 .,_/<>-\t\n\x00▁'’ΣσİＡ한か漢😀\u0301\u200b\u200d\u00a0\u3000\ufeff\u00ad")
        + ["</s>", "<unk>", "<pad>", "photo", " of ", "the", "  ", "\u1112\u1161", "ﬁ", "①", "ﾊﾟ"]
    )
    for length in [3, 5, 8, 13, 21] * 16:
        texts.append("".join(rng.choice(parts) for _ in range(length)))
    return list(dict.fromkeys(texts))


def case(text, ids, truncated):
    """One text: how many tokens it has with its end token, and those that are left when it is cut to the context."""
    return {"text": text, "tokens": len(ids), "ids": truncated}


def write(name, truth, cases):
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(c, ensure_ascii=True) for c in cases)
    (OUT / name).write_text(
        f'{{"truth": {json.dumps(truth)}, "context": {CONTEXT}, "cases": [\n{lines}\n]}}\n'
    )
    print(f"{name}: {len(cases)} texts")


def siglip_cases(spiece, texts):
    from transformers import SiglipTokenizer

    tokenizer = SiglipTokenizer(str(spiece), model_max_length=CONTEXT)
    return [
        case(t, tokenizer(t).input_ids, tokenizer(t, truncation=True, max_length=CONTEXT).input_ids) for t in texts
    ]


def train(name, **options):
    """A tiny model with the special pieces of SigLIP, and without a normalisation table, which alone takes 240 KB."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type="unigram",
        normalization_rule_name="identity", unk_id=2, bos_id=-1, eos_id=1, pad_id=0, hard_vocab_limit=False,
        minloglevel=2, **options,
    )
    path = OUT / f"{name}.spiece.model"
    path.write_bytes(model.getvalue())
    return path


def siglip(spiece):
    import sentencepiece
    import transformers

    truth = (
        f"SiglipTokenizer of transformers {transformers.__version__}, sentencepiece {sentencepiece.__version__}, "
        "google/siglip-so400m-patch14-384"
    )
    write("siglip.json", truth, siglip_cases(spiece, corpus()))
    tiny = {
        "tiny_bytes": dict(vocab_size=360, byte_fallback=True),
        "tiny_unk": dict(vocab_size=90),
        "tiny_user": dict(vocab_size=400, byte_fallback=True, user_defined_symbols=["cat", "ca", "é", "▁two", "。"]),
    }
    texts = [t for t in corpus() if len(t) < 200] + ["cat cats cacao", "é e\u0301", "two twos 。。", "catcatcaca"]
    for name, options in tiny.items():
        path = train(name, **options)
        write(f"{name}.json", truth.replace("google/siglip-so400m-patch14-384", path.name), siglip_cases(path, texts))


def siglip2_cases(path, texts):
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
    tokenizer.no_padding()
    cases = []
    for text in texts:
        tokenizer.no_truncation()
        ids = tokenizer.encode(text).ids
        tokenizer.enable_truncation(CONTEXT)
        cases.append(case(text, ids, tokenizer.encode(text).ids))
    return cases


def train_gemma(name):
    """A tiny tokenizer of the form of Gemma's: BPE over whole texts, byte fallback, added tokens of several kinds."""
    from tokenizers import Tokenizer, models, normalizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    added = ["<h1>", "\n\n", "\n\n\n"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256) if chr(byte) not in "\t\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special + added + byte_pieces, initial_alphabet=["\t", "\n"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    file = json.loads(tokenizer.to_str())
    # Bytes are pieces of the vocabulary, not strings to look for; and of what one looks for not all is special.
    file["added_tokens"] = [t | {"special": t["content"] in special} for t in file["added_tokens"]
                            if t["content"] in special + added]
    path = OUT / f"{name}.tokenizer.json"
    path.write_text(json.dumps(file, ensure_ascii=True) + "\n")
    return path


def siglip2(tokenizer_json):
    import tokenizers

    truth = f"tokenizers {tokenizers.__version__}, "
    write("siglip2.json", truth + "google/siglip2-base-patch16-224", siglip2_cases(tokenizer_json, corpus()))
    path = train_gemma("tiny_gemma")
    texts = [t for t in corpus() if len(t) < 200] + ["<h1>A\n\n\n\nb<H1>", "the cat<eos>the cat", "<pad><bos><unk>"]
    write("tiny_gemma.json", truth + path.name, siglip2_cases(path, texts))


if __name__ == "__main__":
    kinds = {"siglip": siglip, "siglip2": siglip2}
    if len(sys.argv) != 3 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    kinds[sys.argv[1]](Path(sys.argv[2]))
