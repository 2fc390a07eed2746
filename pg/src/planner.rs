//! A planner request to a support function: make a call simpler. Calls and answers are planner
//! nodes.

use crate::call::Call;
use pgrx::pg_sys::{self, Datum, NodeTag, Oid};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

/// A request to simplify a call of a function.
pub struct Simplify<'a> {
    call: &'a Call,
    request: &'a pg_sys::SupportRequestSimplify,
}

/// A planner node, which lives as long as the call of the support function.
#[derive(Clone, Copy)]
pub struct Node<'a>(NonNull<pg_sys::Node>, PhantomData<&'a ()>);

/// The kinds of nodes that support functions tell apart.
pub enum PlannerExpression<'a> {
    /// All of these conditions.
    And(Vec<Node<'a>>),
    Operator {
        operator: Oid,
        arguments: Vec<Node<'a>>,
    },
    /// A column of an entry of the range table, in the query that is this many levels up.
    Column {
        levels_up: u32,
        entry: i32,
        number: i16,
    },
    Null,
    Other,
}

impl<'a> Simplify<'a> {
    /// The request that the support function was called with, if it is of this kind.
    pub fn of(call: &'a Call) -> Option<Simplify<'a>> {
        let node = call.given(0, pg_sys::INTERNALOID).datum()?.cast_mut_ptr::<pg_sys::Node>();
        // SAFETY: SQL can't pass a value of type internal. PostgreSQL passes a node, whose tag
        // names its structure, and which lives as long as the call.
        let request = unsafe {
            let is_it = (*node).type_ == NodeTag::T_SupportRequestSimplify;
            is_it.then(|| &*node.cast())?
        };
        Some(Simplify { call, request })
    }

    /// The arguments of the function call.
    pub fn arguments(&self) -> Vec<Node<'a>> {
        // SAFETY: the planner's nodes, which live as long as the request.
        unsafe { nodes((*self.request.fcall).args) }
    }

    /// The conditions of the query, if the function call is the only entry of its range table. The
    /// columns of the call are then those of entry 1.
    pub fn conditions(&self) -> Option<Node<'a>> {
        // SAFETY: as above; parts that the query lacks are null.
        unsafe {
            let query = self.request.root.as_ref()?.parse.as_ref()?;
            if nodes(query.rtable).len() != 1 {
                return None;
            }
            Node::new(query.jointree.as_ref()?.quals)
        }
    }

    /// The call with other arguments, which must be of the same types.
    pub fn with_arguments(&self, arguments: &[Node<'a>]) -> Node<'a> {
        let kinds = |nodes: &[Node]| nodes.iter().map(|node| node.kind()).collect::<Vec<_>>();
        if kinds(arguments) != kinds(&self.arguments()) {
            pgrx::error!("a call is given arguments of other types");
        }
        self.make(|| {
            // SAFETY: the copy is a `FuncExpr`, and the new arguments have the types of the old
            // ones.
            unsafe {
                let copy = pg_sys::copyObjectImpl(self.request.fcall.cast());
                let copy = copy.cast::<pg_sys::FuncExpr>();
                (*copy).args = list(arguments);
                copy.cast()
            }
        })
    }

    /// A constant of type boolean.
    pub fn boolean(&self, value: bool) -> Node<'a> {
        // SAFETY: makes a new node.
        self.make(|| unsafe { pg_sys::makeBoolConst(value, false) })
    }

    /// A constant of type smallint.
    pub fn smallint(&self, value: i16) -> Node<'a> {
        let (kind, value) = (pg_sys::INT2OID, Datum::from(value));
        // SAFETY: makes a new node, of a type of two bytes that is passed by value.
        self.make(|| unsafe {
            pg_sys::makeConst(kind, -1, Oid::INVALID, 2, value, false, true).cast()
        })
    }

    /// An array expression, which is evaluated from its elements when the query runs.
    pub fn array(&self, element: Oid, kind: Oid, elements: &[Node<'a>]) -> Node<'a> {
        // SAFETY: returns InvalidOid for a type that is not an array.
        let is_array = unsafe { pg_sys::get_element_type(kind) } == element;
        if !is_array || elements.iter().any(|node| node.kind() != element) {
            pgrx::error!("an array has an element of another type");
        }
        self.make(|| {
            // SAFETY: the node is new and zeroed.
            unsafe {
                let size = size_of::<pg_sys::ArrayExpr>();
                let node = pg_sys::palloc0(size).cast::<pg_sys::ArrayExpr>();
                (*node).xpr.type_ = NodeTag::T_ArrayExpr;
                (*node).array_typeid = kind;
                (*node).element_typeid = element;
                (*node).elements = list(elements);
                (*node).location = -1;
                node.cast()
            }
        })
    }

    /// A copy of a node, in the memory context of the call.
    pub fn copy(&self, node: Node) -> Node<'a> {
        // SAFETY: the node is valid.
        self.make(|| unsafe { pg_sys::copyObjectImpl(node.0.as_ptr().cast_const().cast()).cast() })
    }

    /// Makes a node in the memory context of the call.
    fn make(&self, make: impl FnOnce() -> *mut pg_sys::Node) -> Node<'a> {
        // SAFETY: that context outlives the call. `make` returns a node, or raises an error.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.call.memory().get());
            let node = make();
            pg_sys::MemoryContextSwitchTo(before);
            Node(NonNull::new_unchecked(node), PhantomData)
        }
    }
}

impl<'a> Node<'a> {
    /// # Safety
    /// The pointer must be null, or a node that is valid for `'a`.
    unsafe fn new(node: *mut pg_sys::Node) -> Option<Node<'a>> {
        NonNull::new(node).map(|node| Node(node, PhantomData))
    }

    pub fn into_datum(self) -> Datum {
        Datum::from(self.0.as_ptr())
    }

    /// The type of its value.
    fn kind(&self) -> Oid {
        // SAFETY: the node is valid. PostgreSQL raises an error for a node that has no type.
        unsafe { pg_sys::exprType(self.0.as_ptr()) }
    }

    /// The node, as one of the kinds that support functions tell apart.
    pub fn read(&self) -> PlannerExpression<'a> {
        let node = self.0.as_ptr();
        // SAFETY: each node is read as the structure that its tag names.
        unsafe {
            match (*node).type_ {
                NodeTag::T_List => PlannerExpression::And(nodes(node.cast())),
                NodeTag::T_BoolExpr => {
                    let expression = &*node.cast::<pg_sys::BoolExpr>();
                    match expression.boolop {
                        pg_sys::BoolExprType::AND_EXPR => {
                            PlannerExpression::And(nodes(expression.args))
                        }
                        _ => PlannerExpression::Other,
                    }
                }
                NodeTag::T_OpExpr => {
                    let expression = &*node.cast::<pg_sys::OpExpr>();
                    let arguments = nodes(expression.args);
                    PlannerExpression::Operator { operator: expression.opno, arguments }
                }
                NodeTag::T_Var => {
                    let var = &*node.cast::<pg_sys::Var>();
                    let (levels_up, number) = (var.varlevelsup, var.varattno);
                    PlannerExpression::Column { levels_up, entry: var.varno, number }
                }
                NodeTag::T_Const if (*node.cast::<pg_sys::Const>()).constisnull => {
                    PlannerExpression::Null
                }
                _ => PlannerExpression::Other,
            }
        }
    }

    /// Whether its value is known before rows are read.
    pub fn is_known(&self) -> bool {
        let node = self.0.as_ptr();
        // SAFETY: the node is valid.
        unsafe {
            !pg_sys::contain_var_clause(node)
                && !pg_sys::contain_subplans(node)
                && !pg_sys::contain_volatile_functions(node)
        }
    }
}

/// # Safety
/// The list must be null, or a list of nodes that is valid for `'a`.
unsafe fn nodes<'a>(list: *mut pg_sys::List) -> Vec<Node<'a>> {
    // SAFETY: as the caller promises; `length` is the number of elements, which are pointers in a
    // list of nodes.
    unsafe {
        let Some(list) = list.as_ref() else { return Vec::new() };
        let count = usize::try_from(list.length).unwrap_or(0);
        let elements = std::slice::from_raw_parts(list.elements, count);
        elements.iter().filter_map(|element| Node::new(element.ptr_value.cast())).collect()
    }
}

fn list(nodes: &[Node]) -> *mut pg_sys::List {
    // SAFETY: appends to a list that was made here.
    nodes
        .iter()
        .fold(null_mut(), |list, node| unsafe { pg_sys::lappend(list, node.0.as_ptr().cast()) })
}

/// A built-in operator.
pub struct Operator {
    pub name: String,
    /// The types of its sides.
    pub left: Oid,
    pub right: Oid,
}

impl Operator {
    /// `None` if the operator is not built in, or does not exist.
    pub fn builtin(operator: Oid) -> Option<Operator> {
        let is_builtin = operator.to_u32() < pg_sys::FirstGenbkiObjectId;
        if operator == Oid::INVALID || !is_builtin {
            return None;
        }
        let (mut left, mut right) = (Oid::INVALID, Oid::INVALID);
        // SAFETY: get_opname returns a C string, or null if there is no such operator.
        unsafe {
            let name = NonNull::new(pg_sys::get_opname(operator))?;
            pg_sys::op_input_types(operator, &mut left, &mut right);
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            Some(Operator { name, left, right })
        }
    }
}

/// The operator that gives the same result with its sides swapped.
pub fn commutator(operator: Oid) -> Option<Oid> {
    // SAFETY: a syscache look-up, which returns InvalidOid if the operator has no commutator.
    let commutator = unsafe { pg_sys::get_commutator(operator) };
    (commutator != Oid::INVALID).then_some(commutator)
}
