//! What to do about models whose graphs differ, where a program that can make them alike
//! is known. Each command was followed to the letter: tests/onnx_merge.rs does it again.

use std::path::Path;

use sms_merge::format::onnx::read::GraphDifference;

use crate::cli::exit::quoted;

/// Has onnxruntime read a model, which makes initialisers of constants, and write it
/// without changing it further.
const TO_INITIALISERS: &str = "import sys, onnxruntime as o; s = o.SessionOptions(); \
s.graph_optimization_level = o.GraphOptimizationLevel.ORT_DISABLE_ALL; \
s.optimized_model_filepath = sys.argv[2]; o.InferenceSession(sys.argv[1], s)";

/// Gives what nodes read and write in the second model the names of the first.
const RENAME: &str = "import sys, onnx; a, b = map(onnx.load, sys.argv[1:3]); \
m = {y: x for p, q in zip(a.graph.node, b.graph.node) \
for x, y in zip([*p.input, *p.output], [*q.input, *q.output])}; \
[f.__setitem__(i, m.get(n, n)) for q in b.graph.node \
for f in (q.input, q.output) for i, n in enumerate(f)]; \
[setattr(t, \"name\", m.get(t.name, t.name)) for t in [*b.graph.initializer, \
*(s.values for s in b.graph.sparse_initializer), *b.graph.input, *b.graph.output]]; \
onnx.save(b, sys.argv[3])";

/// The remedy for graphs that differ, if there is one.
pub(super) fn remedy(first: &Path, other: &Path, place: &GraphDifference) -> Option<String> {
    let (quoted_first, quoted_other) = (quoted(first), quoted(other));
    if place.is_constant() {
        return Some(format!(
            "if the constant is a weight, make it an initialiser of each model, with \
             onnxruntime: for m in {quoted_first} {quoted_other}; do python -c \
             '{TO_INITIALISERS}' \"$m\" \"${{m%.onnx}}-initialisers.onnx\"; done"
        ));
    }
    place.is_name().then(|| {
        let renamed = quoted(&other.with_extension("renamed.onnx"));
        format!(
            "if only names differ, give the second model those of the first: python -c \
             '{RENAME}' {quoted_first} {quoted_other} {renamed}"
        )
    })
}
