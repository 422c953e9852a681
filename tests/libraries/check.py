"""Makes directories with the libraries that people use, merges them with the program, and
loads the soups with the same libraries.

    python tests/libraries/check.py sms-merge LIBRARY DIRECTORY

LIBRARY is one of those below. Prints a line per soup that was loaded and is the mean of
its ingredients.
"""

import json
import logging
import os
import subprocess
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402

PROGRAM, LIBRARY, DIRECTORY = sys.argv[1:]
os.chdir(DIRECTORY)


def merge(*words):
    subprocess.run([PROGRAM, *words, "-q"], check=True)


def is_mean(soup, first, second, tolerance=1e-6):
    """Whether each tensor of floats is the mean of the other two."""
    for name, tensor in soup.items():
        if tensor.is_floating_point():
            mean = (first[name].double() + second[name].double()) / 2
            far = (tensor.double() - mean).abs().max().item() if tensor.numel() else 0
            assert far <= tolerance, f"{name} is {far} off"
    return True


def ingredients(make, seeds=(1, 2)):
    """Models that share their beginning, each a little elsewhere."""
    models = []
    for seed in seeds:
        torch.manual_seed(0)
        model = make()
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
        models.append(model)
    return models


def check(soup, models, what, tolerance=1e-6):
    first, second = (model.state_dict() for model in models)
    assert is_mean(soup.state_dict(), first, second, tolerance)
    print("loaded", what)


def transformers():
    from transformers import AutoConfig, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    llama = LlamaConfig(**small, num_attention_heads=2, vocab_size=20)
    models = ingredients(lambda: LlamaForCausalLM(llama))

    def load(path, **options):
        found, info = LlamaForCausalLM.from_pretrained(
            path, output_loading_info=True, **options
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        return found

    for model, name in zip(models, "ab"):
        model.save_pretrained(f"one_{name}")
        model.save_pretrained(f"shards_{name}", max_shard_size="6KB")
        model.save_pretrained(f"variant_{name}", variant="fp16")
        model.save_pretrained(f"variants_{name}", variant="fp16", max_shard_size="6KB")
        os.makedirs(f"bin_{name}")
        torch.save(model.state_dict(), f"bin_{name}/pytorch_model.bin")
        model.config.save_pretrained(f"bin_{name}")
        model.generation_config.save_pretrained(f"bin_{name}")
    for kind in ("one", "shards", "bin"):
        merge(f"{kind}_a", f"{kind}_b", "-o", kind)
        check(load(kind), models, f"transformers {kind}")
    merge("one_a", "one_b", "-o", "cut", "--shard-size", "6KB")
    check(load("cut"), models, "transformers, cut into shards")
    for kind in ("variant", "variants"):
        merge(f"{kind}_a", f"{kind}_b", "-o", kind)
        check(load(kind, variant="fp16"), models, f"transformers {kind}")
    merge("variant_a", "variant_b", "-o", "variant_cut", "--shard-size", "6KB")
    check(load("variant_cut", variant="fp16"), models, "transformers variant, cut")
    merge("one_a", "one_b", "-o", "half", "--dtype", "bf16")
    half = load("half", dtype="auto")
    assert half.dtype == torch.bfloat16 == AutoConfig.from_pretrained("half").dtype
    check(half, models, "transformers with --dtype bf16", 0.01)
    # What was compressed is plain again.
    merge("one_a", "one_b", "-o", "compressed", "--layout", "compressed-tensors")
    subprocess.run([PROGRAM, "export", "compressed", "--layout", "dense", "-o", "plain", "-q"], check=True)
    check(load("plain"), models, "transformers, exported dense")
    for model, name in zip(ingredients(lambda: BertModel(BertConfig(**small, num_attention_heads=2, vocab_size=20))), "ab"):
        model.save_pretrained(f"bert_{name}")
    merge("bert_a", "bert_b", "-o", "bert")
    assert BertModel.from_pretrained("bert", output_loading_info=True)[1]["missing_keys"] == set()
    print("loaded transformers bert")


def peft():
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=20,
    )

    def base():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)

    for seed, name in ((1, "a"), (2, "b")):
        model = base()
        torch.manual_seed(seed)
        lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        adapter = get_peft_model(model, lora)
        adapter.save_pretrained(f"adapter_{name}")
        adapter.save_pretrained(f"bin_{name}", safe_serialization=True)
        from safetensors.torch import load_file

        weights = load_file(f"bin_{name}/adapter_model.safetensors")
        os.remove(f"bin_{name}/adapter_model.safetensors")
        torch.save(weights, f"bin_{name}/adapter_model.bin")
    for kind in ("adapter", "bin"):
        merge(f"{kind}_a", f"{kind}_b", "-o", kind)
        assert os.path.exists(f"{kind}/adapter_model.safetensors")
        soup = PeftModel.from_pretrained(base(), f"./{kind}")
        assert any("lora_" in name for name in soup.state_dict())
        print("loaded peft", kind)


def diffusers():
    from diffusers import UNet2DModel

    def make():
        return UNet2DModel(
            sample_size=8,
            block_out_channels=(4,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=2,
        )

    models = ingredients(make)
    for model, name in zip(models, "ab"):
        model.save_pretrained(f"one_{name}")
        model.save_pretrained(f"variant_{name}", variant="fp16")
        model.save_pretrained(f"shards_{name}", max_shard_size="8KB")
        model.save_pretrained(f"bin_{name}", safe_serialization=False)
    for kind in ("one", "shards", "bin"):
        merge(f"{kind}_a", f"{kind}_b", "-o", kind)
        check(UNet2DModel.from_pretrained(f"./{kind}"), models, f"diffusers {kind}")
    merge("variant_a", "variant_b", "-o", "variant")
    check(UNet2DModel.from_pretrained("./variant", variant="fp16"), models, "diffusers variant")
    for kind, options in (("one", {}), ("variant", {"variant": "fp16"})):
        merge(f"{kind}_a", f"{kind}_b", "-o", f"{kind}_cut", "--shard-size", "8KB")
        soup = UNet2DModel.from_pretrained(f"./{kind}_cut", **options)
        check(soup, models, f"diffusers {kind}, cut into shards")


def timm():
    import timm
    from timm.models import save_for_hf

    models = ingredients(lambda: timm.create_model("test_resnet", num_classes=3))
    for model, name in zip(models, "ab"):
        save_for_hf(model, f"timm_{name}", safe_serialization=True)
        save_for_hf(model, f"bin_{name}", safe_serialization=False)
    for kind in ("timm", "bin"):
        merge(f"{kind}_a", f"{kind}_b", "-o", kind)
        with open(f"{kind}/config.json") as file:
            assert json.load(file)["architecture"] == "test_resnet"
        path = os.path.join(kind, "model.safetensors")
        soup = timm.create_model("test_resnet", num_classes=3, checkpoint_path=path)
        names = {name for name, _ in soup.named_parameters()}
        states = [
            {name: tensor for name, tensor in model.state_dict().items() if name in names}
            for model in (soup, *models)
        ]
        assert is_mean(*states)
        local = timm.create_model(f"local-dir:./{kind}", pretrained=True)
        assert is_mean(local.state_dict(), soup.state_dict(), soup.state_dict())
        print("loaded timm", kind)


def compressed_tensors():
    from compressed_tensors.compressors.sparse_compressors import sparse_24_bitmask, sparse_bitmask
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    parent = torch.randn(32, 64)
    mask = sparse_24_bitmask.get_24_bytemasks(parent)
    weights = []
    name = "layer.weight"
    kinds = {
        "sparse-24-bitmask": sparse_24_bitmask.Sparse24BitMaskTensor,
        "sparse-bitmask": sparse_bitmask.BitmaskTensor,
    }
    for seed, letter in ((1, "a"), (2, "b")):
        torch.manual_seed(seed)
        weight = (parent + 0.01 * torch.randn_like(parent)) * mask
        weights.append(weight)
        for kind, tensor in kinds.items():
            os.makedirs(f"{kind}_{letter}")
            prefix = name if "24" in kind else name.removesuffix(".weight")
            parts = tensor.from_dense(weight).dict(prefix)
            parts = {key: part.contiguous() for key, part in parts.items()}
            save_file(parts, f"{kind}_{letter}/model.safetensors", {"format": "pt"})
            config = {"quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": {"format": kind}}}
            with open(f"{kind}_{letter}/config.json", "w") as file:
                json.dump(config, file)
        os.makedirs(f"plain_{letter}")
        save_file({name: weight}, f"plain_{letter}/model.safetensors", {"format": "pt"})
        with open(f"plain_{letter}/config.json", "w") as file:
            file.write("{}")
    mean = (weights[0].double() + weights[1].double()).float() / 2

    def read(path):
        """What the decompressor of the format that config.json names makes of it."""
        with open(f"{path}/config.json") as file:
            config = json.load(file).get("quantization_config")
        stored = load_file(f"{path}/model.safetensors")
        if config is None:
            return stored[name]
        kind = config["sparsity_config"]["format"]
        parts = {key.removeprefix("layer."): part for key, part in stored.items()}
        tensor = kinds[kind]
        if kind == "sparse-24-bitmask":
            assert parts["compressed"].shape == (32, 32), parts["compressed"].shape
            return tensor.from_compressed_data(**parts).decompress()
        return tensor(**parts).decompress()

    cases = [(kind, ()) for kind in kinds]
    cases += [(kind, ("--layout", "dense")) for kind in kinds]
    cases += [("plain", ("--layout", "compressed-tensors"))]
    cases += [("sparse-24-bitmask", ("--layout", "compressed-tensors"))]
    for number, (kind, words) in enumerate(cases):
        merge(f"{kind}_a", f"{kind}_b", "-o", f"soup{number}", *words)
        assert torch.equal(read(f"soup{number}"), mean), (kind, words)
        print("loaded", kind, *words)
        subprocess.run([PROGRAM, "export", f"soup{number}", "-o", f"copy{number}", *words, "-q"], check=True)
        assert torch.equal(read(f"copy{number}"), mean), ("export", kind, words)


globals()[LIBRARY]()
