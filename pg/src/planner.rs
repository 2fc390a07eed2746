//! What the planner asks of a support function, in its nodes.

use crate::call::Call;
use pgrx::pg_sys::{self, Datum, NodeTag, Oid};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

/// A request to make a call of a function simpler.
pub struct Simplify<'a> {
    call: &'a Call,
    request: &'a pg_sys::SupportRequestSimplify,
}

/// A node, which is there for as long as the call of the support function.
#[derive(Clone, Copy)]
pub struct Node<'a>(NonNull<pg_sys::Node>, PhantomData<&'a ()>);

/// What a node is, as far as anyone asks.
pub enum PlannerExpression<'a> {
    /// All of these.
    And(Vec<Node<'a>>),
    Operator {
        operator: Oid,
        arguments: Vec<Node<'a>>,
    },
    /// Of so many queries further up, of an entry of the query's table of ranges.
    Column {
        levels_up: u32,
        entry: i32,
        number: i16,
    },
    Null,
    Other,
}

impl<'a> Simplify<'a> {
    /// The request that a support function is called with, if it is of this kind.
    pub fn of(call: &'a Call) -> Option<Simplify<'a>> {
        let node = call.given(0, pg_sys::INTERNALOID).datum()?.cast_mut_ptr::<pg_sys::Node>();
        // SAFETY: SQL can pass no value of this type. PostgreSQL passes a node, which is of this
        // structure where its tag says so, and lives as long as the call.
        let request = unsafe {
            let is_it = (*node).type_ == NodeTag::T_SupportRequestSimplify;
            is_it.then(|| &*node.cast())?
        };
        Some(Simplify { call, request })
    }

    /// The arguments of the function's call.
    pub fn arguments(&self) -> Vec<Node<'a>> {
        // SAFETY: the planner's nodes, which live as long as the request.
        unsafe { nodes((*self.request.fcall).args) }
    }

    /// The conditions of the query, if the function's call is all that it reads: then its columns
    /// are those of entry 1.
    pub fn conditions(&self) -> Option<Node<'a>> {
        // SAFETY: as above; what is not there is null.
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
            // SAFETY: a copy of the call, whose arguments are of its function's types.
            unsafe {
                let copy = pg_sys::copyObjectImpl(self.request.fcall.cast());
                let copy = copy.cast::<pg_sys::FuncExpr>();
                (*copy).args = list(arguments);
                copy.cast()
            }
        })
    }

    pub fn boolean(&self, value: bool) -> Node<'a> {
        // SAFETY: makes a new node.
        self.make(|| unsafe { pg_sys::makeBoolConst(value, false) })
    }

    pub fn smallint(&self, value: i16) -> Node<'a> {
        let (kind, value) = (pg_sys::INT2OID, Datum::from(value));
        // SAFETY: makes a new node, of a type of two bytes that is passed by value.
        self.make(|| unsafe {
            pg_sys::makeConst(kind, -1, Oid::INVALID, 2, value, false, true).cast()
        })
    }

    /// An array that is made of its elements when the query runs.
    pub fn array(&self, element: Oid, kind: Oid, elements: &[Node<'a>]) -> Node<'a> {
        // SAFETY: gives InvalidOid for what is no array.
        let is_array = unsafe { pg_sys::get_element_type(kind) } == element;
        if !is_array || elements.iter().any(|node| node.kind() != element) {
            pgrx::error!("an array has an element of another type");
        }
        self.make(|| {
            // SAFETY: a new node, which is nothing but zeros before.
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

    pub fn copy(&self, node: Node) -> Node<'a> {
        // SAFETY: a node, which is there.
        self.make(|| unsafe { pg_sys::copyObjectImpl(node.0.as_ptr().cast_const().cast()).cast() })
    }

    /// Makes a node in the memory of the call.
    fn make(&self, make: impl FnOnce() -> *mut pg_sys::Node) -> Node<'a> {
        // SAFETY: that memory outlives the call. What makes nodes gives one, or raises an error.
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
    /// Null, or a node, which must be there for as long as what is borrowed.
    unsafe fn new(node: *mut pg_sys::Node) -> Option<Node<'a>> {
        NonNull::new(node).map(|node| Node(node, PhantomData))
    }

    pub fn into_datum(self) -> Datum {
        Datum::from(self.0.as_ptr())
    }

    /// The type of its value.
    fn kind(&self) -> Oid {
        // SAFETY: a node, which is there. An error for one that has no value.
        unsafe { pg_sys::exprType(self.0.as_ptr()) }
    }

    pub fn read(&self) -> PlannerExpression<'a> {
        let node = self.0.as_ptr();
        // SAFETY: each is read as what its tag says.
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
        // SAFETY: a node, which is there.
        unsafe {
            !pg_sys::contain_var_clause(node)
                && !pg_sys::contain_subplans(node)
                && !pg_sys::contain_volatile_functions(node)
        }
    }
}

/// # Safety
/// Null, or a list of nodes, which must be there for as long as what is borrowed.
unsafe fn nodes<'a>(list: *mut pg_sys::List) -> Vec<Node<'a>> {
    // SAFETY: as the caller promises; a list has as many elements as it says, and one of nodes
    // has pointers.
    unsafe {
        let Some(list) = list.as_ref() else { return Vec::new() };
        let count = usize::try_from(list.length).unwrap_or(0);
        let elements = std::slice::from_raw_parts(list.elements, count);
        elements.iter().filter_map(|element| Node::new(element.ptr_value.cast())).collect()
    }
}

fn list(nodes: &[Node]) -> *mut pg_sys::List {
    // SAFETY: a new list.
    nodes
        .iter()
        .fold(null_mut(), |list, node| unsafe { pg_sys::lappend(list, node.0.as_ptr().cast()) })
}

/// An operator of PostgreSQL's own.
pub struct Operator {
    pub name: String,
    /// The types of both sides.
    pub left: Oid,
    pub right: Oid,
}

impl Operator {
    /// `None` for one that is not PostgreSQL's own, or that is not there.
    pub fn builtin(operator: Oid) -> Option<Operator> {
        let is_builtin = operator.to_u32() < pg_sys::FirstGenbkiObjectId;
        if operator == Oid::INVALID || !is_builtin {
            return None;
        }
        let (mut left, mut right) = (Oid::INVALID, Oid::INVALID);
        // SAFETY: gives a C string, or null if there is no such operator.
        unsafe {
            let name = NonNull::new(pg_sys::get_opname(operator))?;
            pg_sys::op_input_types(operator, &mut left, &mut right);
            let name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            Some(Operator { name, left, right })
        }
    }
}

/// The operator by which the sides can be changed.
pub fn commutator(operator: Oid) -> Option<Oid> {
    // SAFETY: a look-up, which gives InvalidOid if there is none.
    let commutator = unsafe { pg_sys::get_commutator(operator) };
    (commutator != Oid::INVALID).then_some(commutator)
}
