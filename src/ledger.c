/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  The ledger: one event for each account set that a request moved.
 *
 * Events are only ever added.  What undoes or completes one is an event of its
 * own that refers to it, so a reservation is open as long as nothing refers to
 * its event that settles, cancels or expires it.
 *
 * An event that was made with an idempotency key carries a hash of the key,
 * and the answer that was given.  The hash covers subject and metric, which
 * are what the account's lock covers: whoever holds the lock and looks with a
 * snapshot that is younger than the lock sees the event of every earlier call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "port/pg_bswap.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "compat.h"
#include "guc.h"
#include "id.h"
#include "ledger.h"

static const char *const kind_names[] = {
	[EVENT_CONSUME] = "consume",
	[EVENT_RELEASE] = "release",
	[EVENT_SET_GAUGE] = "set_gauge",
	[EVENT_ADJUST] = "adjust",
	[EVENT_RESERVE] = "reserve",
	[EVENT_SETTLE] = "settle",
	[EVENT_CANCEL] = "cancel",
	[EVENT_EXPIRE] = "expire",
	[EVENT_REFUND] = "refund",
	[EVENT_REPAY] = "repay",
};

const char *
event_kind_name(EventKind kind)
{
	return kind_names[kind];
}

static void
hash_with_length(pg_cryptohash_ctx *ctx, const char *data, size_t len, bool *ok)
{
	uint32		n = pg_hton32((uint32) len);

	*ok = *ok && pg_cryptohash_update(ctx, (uint8 *) &n, sizeof(n)) >= 0 &&
		pg_cryptohash_update(ctx, (const uint8 *) data, len) >= 0;
}

/*
 * SHA-256 over subject, metric and key, each with its length, so that no two
 * triples run into each other.
 */
void
ledger_hash_key(const pg_uuid_t *user_id, const char *metric, const text *key,
				KeyHash *out)
{
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	bool		ok = ctx != NULL && pg_cryptohash_init(ctx) >= 0 &&
		pg_cryptohash_update(ctx, user_id->data, UUID_LEN) >= 0;

	StaticAssertStmt(KEY_HASH_LEN == PG_SHA256_DIGEST_LENGTH, "SHA-256 has 32 bytes");
	hash_with_length(ctx, metric, strlen(metric), &ok);
	hash_with_length(ctx, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), &ok);
	ok = ok && pg_cryptohash_final(ctx, out->hash, KEY_HASH_LEN) >= 0;
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute the hash of an idempotency key")));
	pg_cryptohash_free(ctx);
	SET_VARSIZE(out, VARHDRSZ + KEY_HASH_LEN);
}

static void
raise_key_race(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to a concurrent call with the same idempotency key"),
			 errhint("Retry the transaction: it will get the answer of the other call.")));
}

static Datum
attr(TupleTableSlot *slot, int attnum, bool *isnull)
{
	return slot_getattr(slot, attnum, isnull);
}

static Amount
amount_attr(TupleTableSlot *slot, int attnum)
{
	bool		isnull;
	Datum		datum = attr(slot, attnum, &isnull);

	return isnull ? 0 : amount_from_signed_datum(datum);
}

static Money
money_attr(TupleTableSlot *slot, int attnum)
{
	bool		isnull;
	Datum		datum = attr(slot, attnum, &isnull);

	return isnull ? 0 : money_from_datum(datum);
}

static EventKind
kind_from_name(const char *name)
{
	for (int k = 0; k < lengthof(kind_names); k++)
		if (strcmp(kind_names[k], name) == 0)
			return k;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("an event is of the unknown kind \"%s\"", name),
			 errhint("Correct the row of quota.usage_events.")));
	return 0;					/* keep compiler quiet */
}

static List *
names_from_array(Datum array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	List	   *names = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			names = lappend(names, TextDatumGetCString(elements[i]));
	return names;
}

/*
 * Read an event's row, without its lines; strings are palloc'd.  The key is
 * not read.
 */
static void
read_row(TupleTableSlot *slot, Event *event)
{
	bool		isnull;
	Datum		datum;
	Parts	   *used = &event->moved.used;
	Parts	   *held = &event->moved.held;

	memset(event, 0, sizeof(*event));
	slot_getallattrs(slot);
	event->id = *DatumGetUUIDP(attr(slot, Anum_usage_events_id, &isnull));
	event->user_id = *DatumGetUUIDP(attr(slot, Anum_usage_events_user_id, &isnull));
	event->metric = TextDatumGetCString(attr(slot, Anum_usage_events_metric, &isnull));
	event->kind = kind_from_name(TextDatumGetCString(attr(slot, Anum_usage_events_kind, &isnull)));
	used->bonus = amount_attr(slot, Anum_usage_events_bonus_used);
	used->overage = amount_attr(slot, Anum_usage_events_overage);
	used->allowance = amount_attr(slot, Anum_usage_events_amount) - used->bonus - used->overage;
	used->cost = money_attr(slot, Anum_usage_events_cost);
	held->bonus = amount_attr(slot, Anum_usage_events_held_bonus);
	held->overage = amount_attr(slot, Anum_usage_events_held_overage);
	held->allowance = amount_attr(slot, Anum_usage_events_held) - held->bonus - held->overage;
	held->cost = money_attr(slot, Anum_usage_events_held_cost);
	datum = attr(slot, Anum_usage_events_requested, &isnull);
	event->requested = isnull ? parts_total(event->kind == EVENT_RESERVE ? held : used) :
		amount_from_signed_datum(datum);
	event->period = TextDatumGetCString(attr(slot, Anum_usage_events_period, &isnull));
	datum = attr(slot, Anum_usage_events_rate_periods, &isnull);
	event->rate_periods = isnull ? NIL : names_from_array(datum);
	event->created_at = DatumGetTimestampTz(attr(slot, Anum_usage_events_created_at, &isnull));
	datum = attr(slot, Anum_usage_events_effective_at, &isnull);
	event->effective_at = isnull ? event->created_at : DatumGetTimestampTz(datum);
	datum = attr(slot, Anum_usage_events_refers_to, &isnull);
	event->has_refers_to = !isnull;
	if (!isnull)
		event->refers_to = *DatumGetUUIDP(datum);
	datum = attr(slot, Anum_usage_events_expires_at, &isnull);
	event->expires_at = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
	datum = attr(slot, Anum_usage_events_outcome, &isnull);
	if (!isnull)
	{
		event->outcome = palloc(sizeof(Outcome));
		outcome_from_datum(datum, event->outcome);
	}
}

static int
compare_lines(const void *a, const void *b)
{
	return ((const EventLine *) a)->ordinal - ((const EventLine *) b)->ordinal;
}

/* Read the lines of an event, in their order */
void
ledger_read_lines(RelationSet *set, RelationView view, Event *event)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_BONUS_ALLOCATIONS);
	Datum		key = UUIDPGetDatum(&event->id);
	RelationScan *scan = relation_scan_begin(set, INDEX_BONUS_ALLOCATIONS_PKEY, 1, &key, view);
	int			room = 0;

	event->nlines = 0;
	while (relation_scan_next(scan, slot))
	{
		EventLine  *line;
		bool		isnull;

		if (event->nlines == room)
		{
			room = room ? room * 2 : 4;
			event->lines = event->nlines ? repalloc(event->lines, room * sizeof(EventLine)) :
				palloc(room * sizeof(EventLine));
		}
		line = &event->lines[event->nlines++];
		line->bonus_id = *DatumGetUUIDP(attr(slot, Anum_bonus_allocations_bonus_id, &isnull));
		line->amount = amount_attr(slot, Anum_bonus_allocations_amount);
		line->held = amount_attr(slot, Anum_bonus_allocations_held);
		line->ordinal = DatumGetInt32(attr(slot, Anum_bonus_allocations_ordinal, &isnull));
		line->expired = DatumGetBool(attr(slot, Anum_bonus_allocations_expired, &isnull));
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	if (event->nlines > 1)
		qsort(event->lines, event->nlines, sizeof(EventLine), compare_lines);
}

/*
 * Find the event that an earlier call with the same key made.
 *
 * The lookup stays out of the bookkeeping of SERIALIZABLE: calls with the same
 * key meet at the account, and index pages are shared with other users.  Where
 * the caller's snapshot rules, an event that the snapshot does not see is a
 * lost race like any other.
 */
bool
ledger_find_key(RelationSet *set, const KeyHash *key, Event *event)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		keys[1] = {PointerGetDatum(key)};

	if (!relation_find(set, INDEX_USAGE_EVENTS_IDEMPOTENCY_LOOKUP, 1, keys,
					   VIEW_LATEST, slot))
		return false;
	if (guc_caller_snapshot_rules() &&
		!relation_visible_to_caller(set, TABLE_USAGE_EVENTS, slot))
		raise_key_race();

	if (guc_registers_reads())
		relation_register(set, TABLE_USAGE_EVENTS, slot);

	read_row(slot, event);
	if (event->outcome == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("event of an idempotency key has no recorded answer")));
	ExecClearTuple(slot);
	return true;
}

/* Find an event, without its lines.  Returns false if there is none. */
bool
ledger_find(RelationSet *set, const pg_uuid_t *id, RelationView view, Event *event)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		key = UUIDPGetDatum(id);

	if (!relation_find(set, INDEX_USAGE_EVENTS_PKEY, 1, &key, view, slot))
		return false;
	read_row(slot, event);
	ExecClearTuple(slot);
	return true;
}

/* The events that a scan finds, without their lines: a list of Event */
static List *
read_all(RelationScan *scan, TupleTableSlot *slot)
{
	List	   *events = NIL;

	while (relation_scan_next(scan, slot))
	{
		Event	   *event = palloc(sizeof(Event));

		read_row(slot, event);
		events = lappend(events, event);
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	return events;
}

/* All events that refer to one, without their lines: a list of Event */
List *
ledger_find_referring(RelationSet *set, const pg_uuid_t *id, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		key = UUIDPGetDatum(id);

	return read_all(relation_scan_begin(set, INDEX_USAGE_EVENTS_REFERS_TO, 1, &key, view), slot);
}

/* Reservations of a subject and metric that expire between two instants, as above */
List *
ledger_find_reserves(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
					 TimestampTz from, TimestampTz to, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		keys[2] = {UUIDPGetDatum(user_id), CStringGetTextDatum(metric)};

	return read_all(relation_scan_begin_range(set, INDEX_USAGE_EVENTS_HOLDS, 2, keys,
											  TimestampTzGetDatum(from),
											  TimestampTzGetDatum(to), false, view), slot);
}

/*
 * The events of a subject since an instant that were granted overage, oldest
 * first, as above.  All its events since then are looked at.
 */
List *
ledger_find_overage(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
					TimestampTz from, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		key = UUIDPGetDatum(user_id);
	pg_uuid_t	first;
	pg_uuid_t	last;
	RelationScan *scan;
	List	   *events = NIL;

	id_lower_bound(from, &first);
	memset(&last, 0xFF, sizeof(last));
	scan = relation_scan_begin_range(set, INDEX_USAGE_EVENTS_USER, 1, &key,
									 UUIDPGetDatum(&first), UUIDPGetDatum(&last),
									 false, view);
	while (relation_scan_next(scan, slot))
	{
		Event	   *event;

		if (amount_attr(slot, Anum_usage_events_overage) <= 0)
			continue;
		event = palloc(sizeof(Event));
		read_row(slot, event);
		if (strcmp(event->metric, metric) == 0)
			events = lappend(events, event);
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	return events;
}

/* The names as an array of text */
static Datum
names_get_datum(List *names)
{
	Datum	   *elements = palloc(list_length(names) * sizeof(Datum));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, names)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Insert, and turn a violation of the unique key into the error that tells the
 * client what to do.  The lock on the account makes it impossible, except
 * while a change of plan gives two calls different accounts to lock.
 */
static void
insert_keyed(RelationSet *set, const Datum *values, const bool *nulls)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		relation_insert(set, TABLE_USAGE_EVENTS, values, nulls, true);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
			error->constraint_name &&
			strcmp(error->constraint_name, "idx_usage_events_idempotency_lookup") == 0)
		{
			FlushErrorState();
			raise_key_race();
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* One line for each bonus that the event moved units of */
static void
insert_lines(RelationSet *set, const Event *event)
{
	for (int i = 0; i < event->nlines; i++)
	{
		const EventLine *line = &event->lines[i];
		Datum		values[Natts_bonus_allocations];
		bool		nulls[Natts_bonus_allocations] = {false};

		values[Anum_bonus_allocations_event_id - 1] = UUIDPGetDatum(&event->id);
		values[Anum_bonus_allocations_bonus_id - 1] = UUIDPGetDatum(&line->bonus_id);
		values[Anum_bonus_allocations_amount - 1] = amount_get_datum(line->amount);
		values[Anum_bonus_allocations_held - 1] = amount_get_datum(line->held);
		values[Anum_bonus_allocations_ordinal - 1] = Int32GetDatum(line->ordinal);
		values[Anum_bonus_allocations_expired - 1] = BoolGetDatum(line->expired);
		relation_insert(set, TABLE_BONUS_ALLOCATIONS, values, nulls, true);
	}
}

/*
 * Record an event and its lines.  An answer is kept where one is given: it can
 * be asked for again by the key, or by doing the same again.
 */
void
ledger_insert(RelationSet *set, Event *event)
{
	Datum		values[Natts_usage_events] = {0};
	bool		nulls[Natts_usage_events] = {false};
	const Parts *used = &event->moved.used;
	const Parts *held = &event->moved.held;
	Amount		units = parts_total(event->kind == EVENT_RESERVE ? held : used);

#define SET(att, value) (values[(att) - 1] = (value))
#define SET_UNLESS(att, condition, value) \
	do { \
		nulls[(att) - 1] = (condition); \
		if (!nulls[(att) - 1]) \
			values[(att) - 1] = (value); \
	} while (0)
	SET(Anum_usage_events_id, UUIDPGetDatum(&event->id));
	SET(Anum_usage_events_user_id, UUIDPGetDatum(&event->user_id));
	SET(Anum_usage_events_metric, CStringGetTextDatum(event->metric));
	SET(Anum_usage_events_kind, CStringGetTextDatum(event_kind_name(event->kind)));
	SET(Anum_usage_events_amount, amount_get_datum(parts_total(used)));
	SET(Anum_usage_events_bonus_used, amount_get_datum(used->bonus));
	SET(Anum_usage_events_period, CStringGetTextDatum(event->period));
	SET_UNLESS(Anum_usage_events_rate_periods, event->rate_periods == NIL,
			   names_get_datum(event->rate_periods));
	SET_UNLESS(Anum_usage_events_key_hash, event->key == NULL, PointerGetDatum(event->key));
	SET_UNLESS(Anum_usage_events_outcome, event->outcome == NULL,
			   outcome_get_datum(event->outcome));
	SET_UNLESS(Anum_usage_events_metadata, event->metadata == (Datum) 0, event->metadata);
	SET(Anum_usage_events_created_at, TimestampTzGetDatum(event->created_at));
	SET(Anum_usage_events_overage, amount_get_datum(used->overage));
	SET(Anum_usage_events_cost, money_get_datum(used->cost));
	SET_UNLESS(Anum_usage_events_requested, event->requested == units,
			   amount_get_datum(event->requested));
	SET_UNLESS(Anum_usage_events_effective_at, event->effective_at == event->created_at,
			   TimestampTzGetDatum(event->effective_at));
	SET_UNLESS(Anum_usage_events_refers_to, !event->has_refers_to,
			   UUIDPGetDatum(&event->refers_to));
	SET_UNLESS(Anum_usage_events_expires_at, event->expires_at == DT_NOEND,
			   TimestampTzGetDatum(event->expires_at));
	SET_UNLESS(Anum_usage_events_held, parts_total(held) == 0,
			   amount_get_datum(parts_total(held)));
	SET_UNLESS(Anum_usage_events_held_bonus, held->bonus == 0, amount_get_datum(held->bonus));
	SET_UNLESS(Anum_usage_events_held_overage, held->overage == 0,
			   amount_get_datum(held->overage));
	SET_UNLESS(Anum_usage_events_held_cost, held->cost == 0, money_get_datum(held->cost));
#undef SET
#undef SET_UNLESS

	if (event->key)
		insert_keyed(set, values, nulls);
	else
		relation_insert(set, TABLE_USAGE_EVENTS, values, nulls, false);
	insert_lines(set, event);
}
