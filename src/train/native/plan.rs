//! What is computed in which order and where it lies: a [`Graph`] walks in, a [`Plan`]
//! walks out.
//!
//! A rectifier that is the only reader of a layer is done by that layer; so is a sum
//! that is the only reader of a batch norm.

mod share;

use self::share::share;
use super::engine::Kernels;
use super::lanes::Layout;
use super::norm::Rectify;
use super::sparse::Pattern;
use super::window::Window;
use crate::graph::Graph;
use crate::graph::NodeIdx;
use crate::graph::Op;
use crate::graph::ParameterIdx;
use crate::tensor::Mask;

/// Place of a buffer in [`Plan::buffers`].
pub(super) type BufferIdx = usize;

/// The steps of a network, and the buffers between them.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Shapes of the buffers. The first holds the images.
    pub(super) buffers: Vec<Buffer>,
    /// In order.
    pub(super) steps: Vec<Step>,
    /// Where the logits are.
    pub(super) logits: BufferIdx,
    /// Layouts of the memory of gradients: buffers whose gradients are not needed at the
    /// same time share it, if they have the same layout, so that borders stay zero.
    pub(super) slots: Vec<Layout>,
    /// The slot of each buffer's gradient, if it has one.
    pub(super) slot_of: Vec<Option<usize>>,
}

/// The output of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) layout: Layout,
    /// Whether a weight lies before it.
    pub(super) has_gradient: bool,
}

/// One step: reads `source` (and `addend`), writes `target`.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) source: BufferIdx,
    pub(super) addend: Option<BufferIdx>,
    pub(super) target: BufferIdx,
    pub(super) rectify: Rectify,
}

/// What a step does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Convolution {
        window: Window,
        weight: ParameterIdx,
        bias: Option<ParameterIdx>,
    },
    Linear {
        weight: ParameterIdx,
        bias: Option<ParameterIdx>,
    },
    Norm(Norm),
    MaxPool(Window),
    AvgPool(Window),
    Shortcut {
        stride: usize,
        before: usize,
    },
    /// A copy, a sum or a rectifier on its own.
    Add,
    Flatten,
    Dropout {
        node: NodeIdx,
        probability: f64,
    },
}

/// The parameters of a batch norm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub(super) weight: ParameterIdx,
    pub(super) bias: ParameterIdx,
    pub(super) running_mean: ParameterIdx,
    pub(super) running_var: ParameterIdx,
    pub(super) num_batches_tracked: ParameterIdx,
    pub(super) epsilon: f64,
    pub(super) momentum: f64,
}

impl Plan {
    /// The plan of a graph that its builder has checked.
    pub(super) fn new(graph: &Graph) -> Self {
        let mut planner = Planner::new(graph);
        for node in 0..graph.nodes.len() {
            planner.place(node);
        }
        let logits = planner.buffer_of[graph.nodes.len() - 1];
        let (slots, slot_of) = share(&planner.buffers, &planner.steps, logits);
        Self {
            logits,
            buffers: planner.buffers,
            steps: planner.steps,
            slots,
            slot_of,
        }
    }
}

impl Plan {
    /// The pattern by which a weight's layer is computed sparsely, if its mask is sparse
    /// enough and the weight belongs to that layer alone.
    pub(super) fn pattern(
        &self,
        weight: ParameterIdx,
        mask: &Mask,
        kernels: Kernels,
    ) -> Option<Pattern> {
        let mut users = self.steps.iter().filter(|step| match step.kind {
            Kind::Convolution { weight: own, .. } | Kind::Linear { weight: own, .. } => {
                own == weight
            }
            _ => false,
        });
        let (step, None) = (users.next()?, users.next()) else {
            return None;
        };
        let inputs = self.buffers[step.source].layout;
        let outputs = self.buffers[step.target].layout;
        match step.kind {
            // Sparse kernels read what lies past an edge; dense ones ask first.
            Kind::Convolution { window, .. }
                if inputs.plane.border < window.input_border()
                    || outputs.plane.border < window.output_border() =>
            {
                None
            }
            Kind::Convolution { window, .. } => {
                Pattern::of_convolution(mask, kernels, window, inputs, outputs)
            }
            Kind::Linear { .. } => Pattern::of_linear(mask, kernels, inputs.rows(), outputs.rows()),
            _ => None,
        }
    }
}

struct Planner<'a> {
    graph: &'a Graph,
    readers: Vec<Vec<NodeIdx>>,
    borders: Vec<usize>,
    buffer_of: Vec<BufferIdx>,
    /// The step that writes each node's output, if it may still take on more.
    step_of: Vec<Option<usize>>,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut readers = vec![Vec::new(); graph.nodes.len()];
        for (idx, node) in graph.nodes.iter().enumerate() {
            for &input in &node.inputs {
                readers[input].push(idx);
            }
        }
        Self {
            borders: borders(graph),
            graph,
            readers,
            buffer_of: Vec::new(),
            step_of: Vec::new(),
            buffers: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn place(&mut self, node: NodeIdx) {
        let graph = self.graph;
        let inputs = &graph.nodes[node].inputs;
        match &graph.nodes[node].op {
            Op::Relu if self.takes_on(inputs[0], Taken::Rectifier) => {
                self.take_on(node, inputs[0], None, Rectify::Yes);
            }
            Op::Add => {
                let (first, last) = (inputs[0].min(inputs[1]), inputs[0].max(inputs[1]));
                if first != last && self.takes_on(last, Taken::Sum) {
                    let addend = self.buffer_of[first];
                    self.take_on(node, last, Some(addend), Rectify::No);
                } else {
                    let addend = Some(self.buffer_of[inputs[1]]);
                    self.push(node, Kind::Add, addend, Rectify::No);
                }
            }
            Op::Relu => self.push(node, Kind::Add, None, Rectify::Yes),
            Op::Input => {
                let layout = Layout::new(graph.input(), self.borders[node]);
                self.buffers.push(Buffer {
                    layout,
                    has_gradient: false,
                });
                self.buffer_of.push(0);
                self.step_of.push(None);
            }
            other => self.push(node, kind(node, other), None, Rectify::No),
        }
    }

    /// Whether the step that writes `input` can do what reads it, and nothing else does.
    fn takes_on(&self, input: NodeIdx, taken: Taken) -> bool {
        let is_only_reader = self.readers[input].len() == 1;
        let step = self.step_of[input].map(|step| &self.steps[step]);
        is_only_reader
            && step.is_some_and(|step| {
                step.rectify == Rectify::No
                    && match taken {
                        Taken::Sum => step.addend.is_none() && matches!(step.kind, Kind::Norm(_)),
                        Taken::Rectifier => matches!(
                            step.kind,
                            Kind::Norm(_)
                                | Kind::Add
                                | Kind::Convolution { .. }
                                | Kind::Linear { .. }
                        ),
                    }
            })
    }

    fn take_on(
        &mut self,
        node: NodeIdx,
        input: NodeIdx,
        addend: Option<BufferIdx>,
        rectify: Rectify,
    ) {
        let step = self.step_of[input];
        if let Some(step) = step.map(|step| &mut self.steps[step]) {
            step.addend = step.addend.or(addend);
            step.rectify = rectify;
            // The layer's own output had this one reader, so the border is the reader's.
            let layout = Layout::new(self.graph.nodes[node].output, self.borders[node]);
            self.buffers[step.target].layout = layout;
            if let Some(addend) = addend {
                self.buffers[step.target].has_gradient |= self.buffers[addend].has_gradient;
            }
        }
        self.buffer_of.push(self.buffer_of[input]);
        self.step_of.push(step);
    }

    fn push(&mut self, node: NodeIdx, kind: Kind, addend: Option<BufferIdx>, rectify: Rectify) {
        let source = self.buffer_of[self.graph.nodes[node].inputs[0]];
        let has_weights = matches!(
            kind,
            Kind::Convolution { .. } | Kind::Linear { .. } | Kind::Norm(_)
        );
        let inherits = self.buffers[source].has_gradient
            || addend.is_some_and(|addend| self.buffers[addend].has_gradient);
        let target = self.buffers.len();
        self.buffers.push(Buffer {
            layout: Layout::new(self.graph.nodes[node].output, self.borders[node]),
            has_gradient: has_weights || inherits,
        });
        self.buffer_of.push(target);
        self.step_of.push(Some(self.steps.len()));
        self.steps.push(Step {
            kind,
            source,
            addend,
            target,
            rectify,
        });
    }
}

/// What a layer may do besides its own work.
#[derive(Clone, Copy)]
enum Taken {
    Sum,
    Rectifier,
}

/// The border of each node's output: what its readers reach past its edge, and, since a
/// gradient lies as its value does, what its writer's backward pass reaches.
fn borders(graph: &Graph) -> Vec<usize> {
    let mut borders = vec![0; graph.nodes.len()];
    for (idx, node) in graph.nodes.iter().enumerate() {
        if let Some(window) = convolution_window(&node.op) {
            let input = node.inputs[0];
            borders[input] = borders[input].max(window.input_border());
            borders[idx] = borders[idx].max(window.output_border());
        }
    }
    // A rectifier or a sum may share the buffer of the layer before it.
    for (idx, node) in graph.nodes.iter().enumerate() {
        if matches!(node.op, Op::Relu | Op::Add) {
            let before = node.inputs.iter().map(|&input| borders[input]).max();
            borders[idx] = borders[idx].max(before.unwrap_or(0));
        }
    }
    // Linear layers and logits are read as rows without a border between them.
    for (border, node) in borders.iter_mut().zip(&graph.nodes) {
        if node.output.pixels() == 1 {
            *border = 0;
        }
    }
    borders
}

fn convolution_window(op: &Op) -> Option<Window> {
    match *op {
        Op::Conv2d {
            kernel,
            stride,
            padding,
            ..
        } => Some(Window {
            kernel,
            stride,
            padding,
        }),
        _ => None,
    }
}

fn kind(node: NodeIdx, op: &Op) -> Kind {
    match *op {
        Op::Conv2d {
            weight,
            bias,
            kernel,
            stride,
            padding,
        } => Kind::Convolution {
            window: Window {
                kernel,
                stride,
                padding,
            },
            weight,
            bias,
        },
        Op::Linear { weight, bias } => Kind::Linear { weight, bias },
        Op::BatchNorm {
            weight,
            bias,
            running_mean,
            running_var,
            num_batches_tracked,
            epsilon,
            momentum,
        } => Kind::Norm(Norm {
            weight,
            bias,
            running_mean,
            running_var,
            num_batches_tracked,
            epsilon,
            momentum,
        }),
        Op::MaxPool {
            kernel,
            stride,
            padding,
        } => Kind::MaxPool(Window {
            kernel,
            stride,
            padding,
        }),
        Op::AvgPool { kernel, stride } => Kind::AvgPool(Window {
            kernel,
            stride,
            padding: [0, 0],
        }),
        Op::GlobalAvgPool => Kind::AvgPool(Window {
            kernel: [0, 0],
            stride: [1, 1],
            padding: [0, 0],
        }),
        Op::PadShortcut { stride, before, .. } => Kind::Shortcut { stride, before },
        Op::Flatten => Kind::Flatten,
        Op::Dropout { probability } => Kind::Dropout { node, probability },
        Op::Input | Op::Add | Op::Relu => Kind::Add,
    }
}
