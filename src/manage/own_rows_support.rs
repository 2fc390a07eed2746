//! What the planner asks about the two halves of a view: whether the reader sees everything,
//! and which bounds a query sets to the columns of its own rows.

use super::authority;
use super::own_rows::{BOUNDED, OPERATORS};
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pgrx::pg_sys::{
    self, ArrayExpr, BoolExpr, BoolExprType, Const, Datum, FuncExpr, List, Node, NodeTag, Oid,
    OpExpr, SupportRequestSimplify, Var,
};
use std::ffi::CStr;

sql_functions! {
    keysmith_shows_everything_support => shows_everything_support;
    keysmith_own_rows_support => own_rows_support;
}

/// Of a call that is to be made simpler.
fn request<'a>(call: &Call) -> Option<&'a SupportRequestSimplify> {
    // SAFETY: PostgreSQL calls support functions with a request, a node; it is of this
    // struct where its tag says so, and lives as long as the call.
    unsafe {
        let node = call.datum(0).map(|datum| datum.cast_mut_ptr::<Node>())?;
        ((*node).type_ == NodeTag::T_SupportRequestSimplify).then(|| &*node.cast())
    }
}

/// `false` in place of the call for who sees only a part. Who sees everything when the query
/// is planned may see less when it is run: for them the call stays.
fn shows_everything_support(call: &Call) -> Result<Option<Datum>> {
    let is_plain = request(call).is_some();
    let simpler = if is_plain && authority::sight()?.tenants.is_some() {
        // SAFETY: makes a new node.
        Datum::from(unsafe { pg_sys::makeBoolConst(false, false) })
    } else {
        Datum::null()
    };
    // Not an SQL null: no answer.
    Ok(Some(simpler))
}

/// The call with the bounds that the query around it sets.
fn own_rows_support(call: &Call) -> Result<Option<Datum>> {
    // SAFETY: the request is PostgreSQL's.
    let bounded = request(call).and_then(|request| unsafe { with_bounds(request) });
    Ok(Some(bounded.map_or(Datum::null(), Datum::from)))
}

/// # Safety
/// The request must be PostgreSQL's.
unsafe fn with_bounds(request: &SupportRequestSimplify) -> Option<*mut FuncExpr> {
    // SAFETY: nodes of the planner's, each read as what its tag says. Where the query reads
    // nothing but the function, the function's columns are those of variable 1.
    unsafe {
        let is_unbounded = nodes((*request.fcall).args).nth(1).is_some_and(|node| is_null(node));
        let query = request.root.as_ref()?.parse.as_ref()?;
        if !is_unbounded || nodes(query.rtable).count() != 1 {
            return None;
        }
        let mut bounds = Bounds { pairs: Vec::new(), values: Default::default() };
        bounds.gather(query.jointree.as_ref()?.quals);
        if bounds.pairs.is_empty() {
            return None;
        }
        let bounded = pg_sys::copyObjectImpl(request.fcall.cast()).cast::<FuncExpr>();
        let shown = nodes((*bounded).args).next()?;
        let pairs = array(pg_sys::INT2OID, pg_sys::INT2ARRAYOID, &bounds.pairs);
        let values = BOUNDED.iter().zip(&bounds.values);
        let values = values.map(|((kind, kinds), values)| array(*kind, *kinds, values));
        let arguments: Vec<_> = [shown, pairs].into_iter().chain(values).collect();
        (*bounded).args = list(&arguments);
        Some(bounded)
    }
}

/// What `own_rows` reads as bounds.
struct Bounds {
    /// Numbers of columns and of operators.
    pairs: Vec<*mut Node>,
    /// What columns are compared with, by their types.
    values: [Vec<*mut Node>; BOUNDED.len()],
}

impl Bounds {
    /// Takes what all rows of the query must meet.
    ///
    /// # Safety
    /// The node must be conditions of a query that reads the function alone.
    unsafe fn gather(&mut self, node: *mut Node) {
        // SAFETY: as above.
        unsafe {
            match node.as_ref().map(|node| node.type_) {
                Some(NodeTag::T_List) => nodes(node.cast()).for_each(|node| self.gather(node)),
                Some(NodeTag::T_BoolExpr) => {
                    let expression = &*node.cast::<BoolExpr>();
                    if expression.boolop == BoolExprType::AND_EXPR {
                        nodes(expression.args).for_each(|node| self.gather(node));
                    }
                }
                Some(NodeTag::T_OpExpr) => {
                    self.take(&*node.cast::<OpExpr>());
                }
                _ => {}
            }
        }
    }

    /// Takes a comparison of a column, by an operator of PostgreSQL's own, with what is known
    /// before rows are read.
    ///
    /// # Safety
    /// As for `gather`.
    unsafe fn take(&mut self, comparison: &OpExpr) -> Option<()> {
        // SAFETY: as above; a name is a C string.
        unsafe {
            let sides: Vec<*mut Node> = nodes(comparison.args).collect();
            let (column, value, operator) = match sides[..] {
                [left, right] if is_column(left) => (left, right, comparison.opno),
                [left, right] if is_column(right) => {
                    (right, left, pg_sys::get_commutator(comparison.opno))
                }
                _ => return None,
            };
            let is_builtin = operator.to_u32() < pg_sys::FirstGenbkiObjectId;
            if operator == Oid::INVALID || !is_builtin {
                return None;
            }
            let (mut left, mut right) = (Oid::INVALID, Oid::INVALID);
            pg_sys::op_input_types(operator, &mut left, &mut right);
            let kind = BOUNDED.iter().position(|(kind, _)| *kind == left && *kind == right)?;
            let name = CStr::from_ptr(pg_sys::get_opname(operator));
            let number = OPERATORS.iter().position(|known| known.as_bytes() == name.to_bytes())?;
            let is_known = !pg_sys::contain_var_clause(value)
                && !pg_sys::contain_subplans(value)
                && !pg_sys::contain_volatile_functions(value);
            if !is_known {
                return None;
            }
            self.pairs.push(smallint((*column.cast::<Var>()).varattno));
            self.pairs.push(smallint(number as i16));
            self.values[kind].push(pg_sys::copyObjectImpl(value.cast()).cast());
            Some(())
        }
    }
}

/// # Safety
/// For nodes.
unsafe fn nodes(list: *mut List) -> impl Iterator<Item = *mut Node> {
    // SAFETY: as the caller promises; a list has as many elements as it says.
    let elements = unsafe {
        list.as_ref().map_or(&[][..], |list| {
            std::slice::from_raw_parts(list.elements, usize::try_from(list.length).unwrap_or(0))
        })
    };
    // SAFETY: a list of nodes has pointers.
    elements.iter().map(|element| unsafe { element.ptr_value.cast() })
}

/// # Safety
/// For nodes.
unsafe fn list(nodes: &[*mut Node]) -> *mut List {
    // SAFETY: a new list.
    nodes
        .iter()
        .fold(std::ptr::null_mut(), |list, node| unsafe { pg_sys::lappend(list, node.cast()) })
}

/// A column of the function, as it is and no part of it.
///
/// # Safety
/// For a node.
unsafe fn is_column(node: *mut Node) -> bool {
    // SAFETY: as the caller promises; read as what the tag says.
    unsafe {
        (*node).type_ == NodeTag::T_Var && {
            let var = &*node.cast::<Var>();
            var.varno == 1 && var.varlevelsup == 0 && var.varattno > 0
        }
    }
}

/// # Safety
/// For a node.
unsafe fn is_null(node: *mut Node) -> bool {
    // SAFETY: as above.
    unsafe { (*node).type_ == NodeTag::T_Const && (*node.cast::<Const>()).constisnull }
}

fn smallint(value: i16) -> *mut Node {
    // SAFETY: makes a new node.
    unsafe {
        pg_sys::makeConst(pg_sys::INT2OID, -1, Oid::INVALID, 2, Datum::from(value), false, true)
            .cast()
    }
}

/// An array that is made of its elements when the query runs.
///
/// # Safety
/// The nodes must give values of the elements' type.
unsafe fn array(element: Oid, array: Oid, elements: &[*mut Node]) -> *mut Node {
    // SAFETY: a new node, which is nothing but zeros before.
    unsafe {
        let node = pg_sys::palloc0(size_of::<ArrayExpr>()).cast::<ArrayExpr>();
        (*node).xpr.type_ = NodeTag::T_ArrayExpr;
        (*node).array_typeid = array;
        (*node).element_typeid = element;
        (*node).elements = list(elements);
        (*node).location = -1;
        node.cast()
    }
}
