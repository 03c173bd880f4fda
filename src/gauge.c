/*-------------------------------------------------------------------------
 *
 * gauge.c
 *	  SQL functions and the trigger that move levels: seats, storage, projects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "amount_numeric.h"
#include "guard.h"
#include "limit.h"
#include "post.h"

PG_FUNCTION_INFO_V1(quota_release_quota);
PG_FUNCTION_INFO_V1(quota_set_gauge);
PG_FUNCTION_INFO_V1(quota_enforce_quota);

Datum
quota_release_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	guard_can_write("release_quota()");
	guard_request(fcinfo, 3, 4, &request, &item);
	item.amount = -item.amount;
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_set_gauge(PG_FUNCTION_ARGS)
{
	Request		request = {.kind = REQUEST_SET_GAUGE, .nitems = 1};
	RequestItem item = {0};
	Outcome		outcome;

	guard_can_write("set_gauge()");
	request.items = &item;
	item.user_id = guard_user_id(fcinfo, 0);
	item.metric = guard_metric(fcinfo, 1);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("value must not be null"),
				 errhint("Pass the level that the gauge stands at.")));
	item.amount = amount_from_argument_or_zero(PG_GETARG_NUMERIC(2));
	request.metadata = guard_reason(fcinfo, 3);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

/* ---------------------------------------------------------------------------
 * enforce_quota
 * ------------------------------------------------------------------------- */

/* What one version of a row counts for */
typedef struct RowShare
{
	bool		counts;
	pg_uuid_t	user_id;
	Amount		amount;
} RowShare;

static int
find_column(TriggerData *data, const char *name, Oid type, const char *type_name)
{
	TupleDesc	desc = RelationGetDescr(data->tg_relation);
	int			column = SPI_fnumber(desc, name);

	if (column <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist", name,
						RelationGetRelationName(data->tg_relation)),
				 errhint("The arguments of enforce_quota are a metric, the subject's column and, if rows differ in what they use, the amount's column.")));
	if (type != InvalidOid && getBaseType(SPI_gettypeid(desc, column)) != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of relation \"%s\" is not of type %s", name,
						RelationGetRelationName(data->tg_relation), type_name),
				 errhint("enforce_quota needs a column of this type.")));
	return column;
}

/*
 * A number of any type as an amount; null and 0 count for nothing.  Nor does
 * what cannot be an amount in the "old" version of a row: it was there before
 * the trigger, and must not be there for ever.
 */
static Amount
read_amount(TupleDesc desc, HeapTuple row, int column, bool old)
{
	Oid			type = getBaseType(SPI_gettypeid(desc, column));
	bool		isnull;
	Datum		datum = SPI_getbinval(row, desc, column, &isnull);
	Datum		numeric;

	if (isnull)
		return 0;
	switch (type)
	{
		case INT2OID:
			numeric = NumericGetDatum(int64_to_numeric(DatumGetInt16(datum)));
			break;
		case INT4OID:
			numeric = NumericGetDatum(int64_to_numeric(DatumGetInt32(datum)));
			break;
		case INT8OID:
			numeric = NumericGetDatum(int64_to_numeric(DatumGetInt64(datum)));
			break;
		case NUMERICOID:
			numeric = datum;
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" is neither numeric nor an integer",
							SPI_fname(desc, column)),
					 errhint("enforce_quota needs exact amounts.")));
	}
	if (old && !amount_is_amount_or_zero(DatumGetNumeric(numeric)))
		return 0;
	return amount_from_argument_or_zero(DatumGetNumeric(numeric));
}

static void
read_share(TriggerData *data, HeapTuple row, bool old, RowShare *share)
{
	char	  **args = data->tg_trigger->tgargs;
	TupleDesc	desc = RelationGetDescr(data->tg_relation);
	bool		isnull;
	Datum		user_id;

	memset(share, 0, sizeof(*share));
	if (row == NULL)
		return;
	user_id = SPI_getbinval(row, desc, find_column(data, args[1], UUIDOID, "uuid"), &isnull);
	if (isnull)
		return;					/* nobody's row */
	share->user_id = *DatumGetUUIDP(user_id);
	share->amount = data->tg_trigger->tgnargs < 3 ? AMOUNT_UNIT :
		read_amount(desc, row, find_column(data, args[2], InvalidOid, NULL), old);
	share->counts = share->amount > 0;
}

/* Charge or give back what the difference of two versions of a row counts for */
static void
enforce(const char *metric, const RowShare *old, const RowShare *new)
{
	bool		gauge = limit_metric_kind(metric) == METRIC_GAUGE;
	Request		request = {.kind = REQUEST_CONSUME};
	RequestItem items[2] = {{{{0}}}};
	Outcome		outcomes[2];
	bool		same = old->counts && new->counts &&
		memcmp(&old->user_id, &new->user_id, UUID_LEN) == 0;

	request.items = items;
	if (same)
	{
		items[0].user_id = new->user_id;
		items[0].amount = new->amount - old->amount;
		request.nitems = items[0].amount > 0 || (items[0].amount < 0 && gauge) ? 1 : 0;
	}
	else
	{
		if (new->counts)
		{
			items[request.nitems].user_id = new->user_id;
			items[request.nitems++].amount = new->amount;
		}
		/* what a counter has counted stays counted */
		if (old->counts && gauge)
		{
			items[request.nitems].user_id = old->user_id;
			items[request.nitems++].amount = -old->amount;
		}
	}
	if (request.nitems == 0)
		return;
	items[0].metric = items[1].metric = pstrdup(metric);
	post(&request, outcomes);
	if (!outcomes[0].allowed)
		outcome_raise_denied(&outcomes[0], items[0].amount);
}

/*
 * Row trigger: a row of the table counts for a metric of the subject that one
 * of its columns names.  A row that has no room is refused with QU001.
 */
Datum
quota_enforce_quota(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	RowShare	old;
	RowShare	new;
	HeapTuple	result;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("enforce_quota must be fired for each row by a trigger"),
				 errhint("CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON ... FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('metric', 'user column').")));
	if (data->tg_trigger->tgnargs < 2 || data->tg_trigger->tgnargs > 3)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("enforce_quota has %d arguments", data->tg_trigger->tgnargs),
				 errhint("They are a metric, the subject's column and, if rows differ in what they use, the amount's column.")));
	guard_can_write("enforce_quota()");

	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		result = data->tg_newtuple;
	else
		result = data->tg_trigtuple;
	read_share(data, TRIGGER_FIRED_BY_INSERT(data->tg_event) ? NULL : data->tg_trigtuple, true, &old);
	read_share(data, TRIGGER_FIRED_BY_DELETE(data->tg_event) ? NULL : result, false, &new);
	enforce(data->tg_trigger->tgargs[0], &old, &new);
	return PointerGetDatum(result);
}
