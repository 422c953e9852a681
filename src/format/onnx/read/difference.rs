//! Where two models differ, in words.

use std::fmt;

use crate::tensor::Printable;

/// Where two graphs first differ, outermost first: the node, its attribute, and on in
/// the graph that the attribute holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphDifference {
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A node, by its place in its graph.
    Node {
        idx: usize,
        op_type: String,
        other: Option<String>,
    },
    /// An attribute of a node.
    Attribute { name: String, other: Option<String> },
    /// A function of the model.
    Function { name: String },
    /// Something that is there only once, or that has no name.
    Part(&'static str),
    /// One of the two has more of it.
    Missing(&'static str),
}

impl GraphDifference {
    /// Whether it is the value of a `Constant` node.
    pub fn is_constant(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(
            |step| matches!(step, Step::Node { op_type, other: None, .. } if op_type == "Constant"),
        )
    }

    /// Whether it is the name of what a node reads or writes.
    pub fn is_name(&self) -> bool {
        matches!(
            self.steps.last(),
            Some(Step::Part("an input" | "an output"))
        )
    }
}

impl fmt::Display for GraphDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, step) in self.steps.iter().enumerate() {
            if idx > 0 {
                f.write_str(", ")?;
            }
            match step {
                Step::Node {
                    idx,
                    op_type,
                    other,
                } => {
                    write!(f, "node {idx} (`{}`", Printable(op_type))?;
                    if let Some(other) = other {
                        write!(f, " and `{}`", Printable(other))?;
                    }
                    f.write_str(")")?;
                }
                Step::Attribute { name, other: None } => {
                    write!(f, "attribute `{}`", Printable(name))?;
                }
                Step::Attribute {
                    name,
                    other: Some(other),
                } => write!(
                    f,
                    "attribute `{}` in place of `{}`",
                    Printable(other),
                    Printable(name)
                )?,
                Step::Function { name } => write!(f, "function `{}`", Printable(name))?,
                Step::Part(part) => f.write_str(part)?,
                Step::Missing(part) => write!(f, "{part}, which one of them lacks")?,
            }
        }
        Ok(())
    }
}
