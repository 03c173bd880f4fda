/*-------------------------------------------------------------------------
 *
 * id.c
 *	  Identifiers of entries: UUIDs of version 7 (RFC 9562).
 *
 * Ordered by time, unique without a sequence (also across servers), and as
 * cheap as one.  The twelve bits after the milliseconds carry the fraction of
 * the millisecond.  Entries that a session makes one after another for the same
 * microsecond are in the order in which they were made: the first one's random
 * bits are counted up by a random step, and so stay as hard to guess.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "id.h"

/* random bytes of one identifier */
#define ID_RANDOM	8

/*
 * Of the 62 bits after the variant, the first one is free for counting up: by
 * steps below 2^32, it lasts for 2^29 entries of a microsecond.
 */
#define VARIANT			(UINT64CONST(1) << 63)
#define FIRST_TAIL_MASK	((UINT64CONST(1) << 61) - 1)
#define MAX_STEP		((UINT64CONST(1) << 32) - 1)

/* how many identifiers' worth is drawn from the server's source at once */
#define POOL_SIZE	256

#define MSECS_2000	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY * 1000)

/*
 * Random bytes for one identifier.  Asking the server's source costs more than
 * a row of the ledger's index, mostly for being asked, so it is asked for many
 * at once; each byte is used once.
 */
static void
draw_random(unsigned char *random)
{
	static unsigned char pool[POOL_SIZE][ID_RANDOM];
	static int	left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = POOL_SIZE;
	}
	memcpy(random, pool[--left], ID_RANDOM);
}

/* The part of an identifier that tells the time; the rest is zero */
static void
set_time(TimestampTz at, unsigned char *d)
{
	int64		msecs = at / 1000;
	int			usecs = (int) (at % 1000);
	uint32		fraction;

	if (usecs < 0)
	{
		usecs += 1000;
		msecs--;
	}
	msecs = Max(msecs + MSECS_2000, 0);
	fraction = (uint32) usecs * 4096 / 1000;

	memset(d, 0, UUID_LEN);
	for (int b = 0; b < 6; b++)
		d[b] = (unsigned char) (msecs >> (40 - 8 * b));
	d[6] = 0x70 | (fraction >> 8);
	d[7] = fraction & 0xFF;
}

static void
set_tail(uint64 tail, pg_uuid_t *id)
{
	tail |= VARIANT;
	for (int b = 0; b < ID_RANDOM; b++)
		id->data[UUID_LEN - 1 - b] = (unsigned char) (tail >> (8 * b));
}

/*
 * Make an identifier for an entry made at a time.  Raises an error if the
 * server has no source of randomness.
 */
void
id_generate(TimestampTz at, pg_uuid_t *id)
{
	static TimestampTz last_at = DT_NOBEGIN;
	static uint64 last_tail = 0;
	uint64		tail;

	draw_random((unsigned char *) &tail);
	tail &= last_at == at ? MAX_STEP : FIRST_TAIL_MASK;
	if (last_at == at)
		tail += last_tail + 1;
	last_at = at;
	last_tail = tail;

	set_time(at, id->data);
	set_tail(tail, id);
}

/* The same for an entry of an earlier time, which has no part in the order */
void
id_generate_earlier(TimestampTz at, pg_uuid_t *id)
{
	uint64		tail;

	draw_random((unsigned char *) &tail);
	set_time(at, id->data);
	set_tail(tail & FIRST_TAIL_MASK, id);
}

/* What no identifier of an entry made at a time, or later, is less than */
void
id_lower_bound(TimestampTz at, pg_uuid_t *id)
{
	set_time(at, id->data);
}
