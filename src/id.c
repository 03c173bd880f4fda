/*-------------------------------------------------------------------------
 *
 * id.c
 *	  Identifiers of entries: UUIDs of version 7 (RFC 9562).
 *
 * Ordered by time, unique without a sequence (also across servers), and as
 * cheap as one.  The twelve bits after the milliseconds carry the fraction of
 * the millisecond.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "id.h"

/* most identifiers that are asked for at once */
#define ID_BATCH	4

#define MSECS_2000	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY * 1000)

/*
 * Make n identifiers (up to 4) for entries made at a time.  Raises an error if
 * the server has no source of randomness.
 */
void
id_generate(TimestampTz at, pg_uuid_t *ids, int n)
{
	unsigned char random[ID_BATCH][8];
	int64		msecs = at / 1000;
	int			usecs = (int) (at % 1000);

	Assert(n <= ID_BATCH);
	if (!pg_strong_random(random, n * sizeof(random[0])))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));

	if (usecs < 0)
	{
		usecs += 1000;
		msecs--;
	}
	msecs = Max(msecs + MSECS_2000, 0);

	for (int i = 0; i < n; i++)
	{
		unsigned char *d = ids[i].data;
		uint32		fraction = (uint32) usecs * 4096 / 1000;

		for (int b = 0; b < 6; b++)
			d[b] = (unsigned char) (msecs >> (40 - 8 * b));
		d[6] = 0x70 | (fraction >> 8);
		d[7] = fraction & 0xFF;
		memcpy(d + 8, random[i], 8);
		d[8] = 0x80 | (d[8] & 0x3F);
	}
}
