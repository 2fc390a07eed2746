//! A planner request to a support function: give an index condition that finds the rows for a call
//! of its function.

use crate::call::Call;
use pgrx::pg_sys::{self, Datum, FuncExpr, IndexOptInfo, List, Node, NodeTag, Oid};
use pgrx::pg_sys::{ScalarArrayOpExpr, SupportRequestIndexCondition};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

/// A request for an index condition. One argument of the function call is a column of the index.
pub struct IndexCondition<'a> {
    request: NonNull<SupportRequestIndexCondition>,
    _call: PhantomData<&'a Call>,
}

impl<'a> IndexCondition<'a> {
    /// The request that the support function was called with, if it asks for an index condition.
    pub fn of(call: &'a Call) -> Option<IndexCondition<'a>> {
        if !takes(function(call)?, &[pg_sys::INTERNALOID]) {
            return None;
        }
        let node = NonNull::new(call.datum(0)?.cast_mut_ptr::<Node>())?;
        // SAFETY: SQL can't pass a value of type internal. PostgreSQL passes a node, whose tag
        // names its structure, and which lives as long as the call.
        unsafe {
            if node.as_ref().type_ != NodeTag::T_SupportRequestIndexCondition {
                return None;
            }
            let request = node.cast::<SupportRequestIndexCondition>();
            let is_function = (*request.as_ref().node).type_ == NodeTag::T_FuncExpr;
            is_function.then_some(IndexCondition { request, _call: PhantomData })
        }
    }

    fn request(&self) -> &SupportRequestIndexCondition {
        // SAFETY: it lives as long as the call, and is changed only by `any`.
        unsafe { self.request.as_ref() }
    }

    fn index(&self) -> &IndexOptInfo {
        // SAFETY: the planner keeps the `IndexOptInfo` until the query is planned.
        unsafe { &*self.request().index }
    }

    /// The position, from 0, of the argument that is the index's column.
    pub fn argument(&self) -> i32 {
        self.request().indexarg
    }

    /// Whether the column is the first one of a B-tree.
    pub fn is_leading_in_btree(&self) -> bool {
        self.index().relam == pg_sys::BTREE_AM_OID && self.request().indexcol == 0
    }

    /// Whether the operator family of the column is built in.
    pub fn has_builtin_operators(&self) -> bool {
        self.request().opfamily.to_u32() < pg_sys::FirstNormalObjectId
    }

    /// Answers with `column = ANY (function(value))`. `value` is the position of another argument,
    /// which must be known before the index is read. `function` returns the OID of a function that
    /// makes an array from a value of the given type, or `InvalidOid`.
    pub fn any(mut self, value: i32, function: impl FnOnce(Oid) -> Oid) -> Option<Datum> {
        // SAFETY: the condition shares the arguments of the call, which planner nodes may do as
        // long as none is changed. All types are compared before nodes are built from them.
        unsafe {
            let request = self.request.as_mut();
            let arguments = (*request.node.cast::<FuncExpr>()).args;
            let value = nth(arguments, value)?;
            let column = nth(arguments, request.indexarg)?;
            let relids = pg_sys::pull_varnos(request.root, value);
            let depends = pg_sys::bms_is_member((*(*request.index).rel).relid as i32, relids);
            if depends || pg_sys::contain_volatile_functions(value) {
                return None;
            }
            let kind = pg_sys::exprType(column);
            let array = pg_sys::get_array_type(kind);
            let equality = pg_sys::get_opfamily_member(
                request.opfamily,
                kind,
                kind,
                pg_sys::BTEqualStrategyNumber as i16,
            );
            let function = function(kind);
            let fits = pg_sys::exprType(value) == kind
                && function != Oid::INVALID
                && takes(function, &[kind])
                && pg_sys::get_func_rettype(function) == array;
            if equality == Oid::INVALID || array == Oid::INVALID || !fits {
                return None;
            }
            let elements = pg_sys::makeFuncExpr(
                function,
                array,
                single(value),
                Oid::INVALID,
                pg_sys::exprCollation(value),
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            let any: *mut ScalarArrayOpExpr =
                pg_sys::palloc0(size_of::<ScalarArrayOpExpr>()).cast();
            (*any).xpr.type_ = NodeTag::T_ScalarArrayOpExpr;
            (*any).opno = equality;
            (*any).opfuncid = pg_sys::get_opcode(equality);
            (*any).useOr = true;
            (*any).inputcollid = request.indexcollation;
            (*any).args = pg_sys::lappend(single(column), elements.cast());
            (*any).location = -1;
            // Equal values have the same bytes, unless the collation is nondeterministic.
            request.lossy = request.indexcollation != Oid::INVALID
                && !pg_sys::get_collation_isdeterministic(request.indexcollation);
            Some(Datum::from(single(any.cast())))
        }
    }
}

/// The function that is being called.
fn function(call: &Call) -> Option<Oid> {
    // SAFETY: `flinfo` is null or names the function.
    unsafe { (*call.frame()).flinfo.as_ref() }.map(|function| function.fn_oid)
}

/// Whether a function is declared with arguments of these types.
fn takes(function: Oid, kinds: &[Oid]) -> bool {
    let (mut arguments, mut count) = (null_mut(), 0);
    // SAFETY: PostgreSQL raises an error if there is no such function. The array has `count`
    // elements.
    unsafe {
        pg_sys::get_func_signature(function, &mut arguments, &mut count);
        let count = usize::try_from(count).unwrap_or_default();
        count == kinds.len() && (0..count).all(|n| *arguments.add(n) == kinds[n])
    }
}

/// # Safety
/// The list must be null, or a list of nodes.
unsafe fn nth(list: *mut List, n: i32) -> Option<*mut Node> {
    // SAFETY: as the caller promises; the number is compared with the length.
    unsafe {
        let has = !list.is_null() && n >= 0 && (*list).length > n;
        has.then(|| (*(*list).elements.add(n as usize)).ptr_value.cast())
    }
}

/// # Safety
/// The pointer must be a node.
unsafe fn single(node: *mut Node) -> *mut List {
    // SAFETY: makes a new list.
    unsafe { pg_sys::lappend(null_mut(), node.cast()) }
}
