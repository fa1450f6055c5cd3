"""From a checkpoint to a store: read its files, choose its embedding tensors, label their rows with tokens.

`convert` calls the other modules in this order: `files` and `hub` open the checkpoint, `safetensors`, `torch_files`
and `bare_files` list its tensors, `choosing` picks the embeddings (`by_architecture`, else `by_name`), and `labelling`
gives each row its token. No code of a checkpoint is ever run.
"""
