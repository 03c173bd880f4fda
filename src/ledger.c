/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  The ledger: one event for each request that moved quota.
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
#include "ledger.h"

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

/*
 * Find the event that an earlier call with the same key made.  Returns the
 * amount and the answer of that call.
 *
 * The lookup stays out of the bookkeeping of SERIALIZABLE: calls with the same
 * key meet at the account, and index pages are shared with other users.  Where
 * the caller's snapshot rules, an event that the snapshot does not see is a
 * lost race like any other.
 */
bool
ledger_find_key(RelationSet *set, const KeyHash *key, Amount *amount,
				Outcome *outcome)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		keys[1] = {PointerGetDatum(key)};
	bool		isnull;
	Datum		answer;

	if (!relation_find(set, INDEX_USAGE_EVENTS_IDEMPOTENCY_LOOKUP, 1, keys,
					   VIEW_LATEST, slot))
		return false;
	if (guc_caller_snapshot_rules() &&
		!relation_visible_to_caller(set, TABLE_USAGE_EVENTS, slot))
		raise_key_race();

	if (guc_registers_reads())
		relation_register(set, TABLE_USAGE_EVENTS, slot);

	*amount = amount_from_datum(slot_getattr(slot, Anum_usage_events_amount, &isnull));
	answer = slot_getattr(slot, Anum_usage_events_outcome, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("event of an idempotency key has no recorded answer")));
	outcome_from_datum(answer, outcome);
	ExecClearTuple(slot);
	return true;
}

/* Names of all windows but the allowance, in order; 0 if there are none */
static Datum
rate_periods(const LimitSet *limits)
{
	Datum	   *names;
	int			n = 0;

	if (limits->nlimits < 2)
		return (Datum) 0;
	names = palloc(limits->nlimits * sizeof(Datum));
	for (int i = 0; i < limits->nlimits; i++)
		if (i != limits->allowance)
			names[n++] = CStringGetTextDatum(limits->limits[i].period_name);
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
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
		relation_insert(set, TABLE_USAGE_EVENTS, values, nulls);
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

/*
 * Record a grant that outcome describes.  "key" is NULL if the request has
 * none; then no answer is kept, because it cannot be asked for again.
 */
void
ledger_insert(RelationSet *set, const Request *request, const LimitSet *limits,
			  const KeyHash *key, Outcome *outcome, TimestampTz at)
{
	Datum		values[Natts_usage_events] = {0};
	bool		nulls[Natts_usage_events] = {false};

	values[Anum_usage_events_id - 1] = UUIDPGetDatum(&outcome->event_id);
	values[Anum_usage_events_user_id - 1] = UUIDPGetDatum(&limits->user_id);
	values[Anum_usage_events_metric - 1] = CStringGetTextDatum(limits->metric);
	values[Anum_usage_events_kind - 1] = CStringGetTextDatum("consume");
	values[Anum_usage_events_amount - 1] = amount_get_datum(request->amount);
	values[Anum_usage_events_bonus_used - 1] = amount_get_datum(outcome->bonus_used);
	values[Anum_usage_events_period - 1] =
		CStringGetTextDatum(limits->limits[limits->allowance].period_name);
	values[Anum_usage_events_rate_periods - 1] = rate_periods(limits);
	nulls[Anum_usage_events_rate_periods - 1] = (limits->nlimits < 2);
	values[Anum_usage_events_metadata - 1] = request->metadata;
	nulls[Anum_usage_events_metadata - 1] = (request->metadata == (Datum) 0);
	values[Anum_usage_events_created_at - 1] = TimestampTzGetDatum(at);
	values[Anum_usage_events_overage - 1] = amount_get_datum(0);
	values[Anum_usage_events_cost - 1] = amount_get_datum(0);
	for (int i = Anum_usage_events_requested; i <= Natts_usage_events; i++)
		nulls[i - 1] = true;

	if (key)
	{
		values[Anum_usage_events_key_hash - 1] = PointerGetDatum(key);
		values[Anum_usage_events_outcome - 1] = outcome_get_datum(outcome);
		insert_keyed(set, values, nulls);
	}
	else
	{
		nulls[Anum_usage_events_key_hash - 1] = true;
		nulls[Anum_usage_events_outcome - 1] = true;
		relation_insert(set, TABLE_USAGE_EVENTS, values, nulls);
	}
}
