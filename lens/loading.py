"""A pretrained transformer from a folder, a GGUF file, or tensors in memory."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from probattn.errors import InputError
from probattn.lens.families import build_transformer
from probattn.lens.safetensors_folder import SafetensorsFolder, read_json
from probattn.lens.tokenization import as_tokenization, tokenization_of_folder
from probattn.lens.transformer import Transformer

GGUF_MAGIC = b"GGUF"


def load_transformer(source: Any, tokenizer: Any = None) -> Transformer:
    """A pretrained decoder-only transformer, in float32.

    Known are GPT-2, GPT-NeoX and Pythia, Llama and SmolLM, Mistral, Qwen2 and Qwen3.

    Args:
        source: a folder with config.json and *.safetensors, and perhaps tokenizer.json; a .gguf
            file; or a pair of the fields of config.json and the tensors by their names, such as
            `(model.config.to_dict(), model.state_dict())` of a model of transformers. Tensors are
            copied.
        tokenizer: in place of the source's own: a tokenizer.json, the folder of one, or a
            `tokenizers.Tokenizer`.

    Raises: InputError, in one line, for a source that is missing, damaged or incomplete, for a
        family or a variant that is not known, for a NaN or an infinity among the weights, for a
        tokenizer with more tokens than the model, and for a package that is not installed.
    """
    if isinstance(source, tuple) and len(source) == 2:
        fields, arrays = source
        if not isinstance(fields, Mapping) or not isinstance(arrays, Mapping):
            raise InputError(
                "source: expected a pair of the fields of config.json and tensors by name, got "
                f"{type(fields).__name__} and {type(arrays).__name__}"
            )
        return build_transformer(fields, arrays, as_tokenization(tokenizer), "config", "arrays")
    if not isinstance(source, (str, PathLike)):
        raise InputError(
            "source: expected a folder, a .gguf file, or a pair of fields and tensors, got "
            f"{type(source).__name__}"
        )
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # such as a name that is too long: a text in place of a model
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if is_folder:
        return _from_folder(path, tokenizer)
    if not is_file:
        raise InputError(f"{path}: expected a folder or a .gguf file, found nothing")
    if _begins_with(path, GGUF_MAGIC):
        from probattn.lens.gguf_model import GgufModel

        model = GgufModel(path)
        chosen = model.tokenization() if tokenizer is None else as_tokenization(tokenizer)
        return build_transformer(model.fields, model, chosen, str(path), str(path))
    hint = "; give its folder" if path.suffix in (".safetensors", ".json") else ""
    raise InputError(f"{path}: expected a folder or a GGUF file, got another kind of file{hint}")


def _from_folder(folder: Path, tokenizer: Any) -> Transformer:
    if not (folder / "config.json").is_file():
        gguf = sorted(folder.glob("*.gguf"))
        hint = f"; give the file {gguf[0].name} in it" if gguf else ""
        raise InputError(f"{folder}: expected config.json in it, found none{hint}")
    fields, arrays = read_json(folder / "config.json"), SafetensorsFolder(folder)
    chosen = tokenization_of_folder(folder) if tokenizer is None else as_tokenization(tokenizer)
    return build_transformer(fields, arrays, chosen, str(folder / "config.json"), str(folder))


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
