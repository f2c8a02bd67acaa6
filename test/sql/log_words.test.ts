// Which words find a log line: punctuation of any kind, phrases, what is left out.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { useDatabase } from '../support/database.ts';
import { holds, wordsOf } from '../support/log_search.ts';
import { isSoak } from '../support/soak.ts';

const database = useDatabase();
const numRuns = isSoak ? 300 : 100;
const seed = Number(process.env.SEED || Math.floor(Math.random() * 2 ** 31));

describe('words', () => {
  /** Which of some queries find a message. */
  const findings = async (streamId: number, message: string, queries: string[]) => {
    const rows = await database.sql<{ q: string; is_found: boolean }[]>`
      select q, lib.log_matches(obs.log_words(${streamId}::int, ${message}), ${message}, null, null, f.query, f.query_pattern, null, null, null) as is_found
      from jsonb_array_elements_text(${JSON.stringify(queries)}::text::jsonb) q
      cross join lateral lib.read_log_filter(jsonb_build_object('q', q)) f`;
    return Object.fromEntries(rows.map((row) => [row.q, row.is_found]));
  };
  const all = (queries: string[], isFound: boolean) => Object.fromEntries(queries.map((q) => [q, isFound]));

  const printable = fc.string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 60 });
  // What PostgreSQL's parser takes for more than words.
  const shaped = fc
    .array(
      fc.oneof(
        printable,
        fc.webUrl(),
        fc.emailAddress(),
        fc.ipV4(),
        fc.ipV6(),
        fc.uuid(),
        fc.double({ noNaN: true }).map(String),
        fc.constantFrom(
          '</b>',
          '<a href="x/y">',
          '&amp;',
          '-1.5e-7',
          '1e5',
          'v1.2.3-rc.1',
          '/api/v1/users',
          'a@b.c',
          '0xDEADbeef',
          'x_y',
          "it's",
          'C:\\x',
        ),
      ),
      { minLength: 1, maxLength: 6 },
    )
    .chain((parts) => fc.constantFrom('', ' ', '/', ':', '_').map((between) => parts.join(between)));

  test('each run of letters and digits finds its message, and so do all of them, as a list and as a phrase', async () => {
    await fc.assert(
      fc.asyncProperty(shaped, async (message) => {
        const words = message.match(/[A-Za-z0-9]+/g) ?? [];
        fc.pre(words.length > 0);
        // A list of terms says more with these: -without, "phrases", or.
        const terms = message.replaceAll('"', ' ').replace(/(^|\s)-+/g, '$1');
        const queries = [
          ...words.flatMap((word) => [
            ...(word.toLowerCase() === 'or' ? [] : [word, word.toUpperCase()]),
            `"${word}"`,
          ]),
          words.map((word) => `"${word}"`).join(' '),
          `"${message.replaceAll('"', ' ')}"`,
          ...(/[A-Za-z0-9]/.test(terms) ? [terms] : []),
        ];
        const others = words.map((word) => `-"${word}"`);
        expect(await findings(17, message, [...queries, ...others])).toEqual({
          ...all(queries, true),
          ...all(others, false),
        });
      }),
      { seed, numRuns },
    );
  });

  test('a message is found by no word that it does not have', async () => {
    await fc.assert(
      fc.asyncProperty(shaped, fc.stringMatching(/^[a-z0-9]{1,6}$/), async (message, word) => {
        fc.pre(word !== 'or');
        const isThere = holds({ isNegated: false, words: [word] }, wordsOf(message));
        const queries = [word, `"${word}"`, `${word} or nothing0`];
        expect(await findings(17, message, [...queries, `-${word}`])).toEqual({
          ...all(queries, isThere),
          [`-${word}`]: !isThere,
        });
      }),
      {
        seed,
        numRuns,
        examples: [
          ['00000000-0000-1000-8e9c-000000000000', 'c'],
          ['00000000-0000-1000-8e9c-000000000000', '8e9c'],
          ['stream', 's17'],
          ['17', 's17'],
          ['s17', '17'],
          ['stream s17', 's17'],
        ],
      },
    );
  });

  test('the word that stands for a stream is none that a search can have', async () => {
    const queries = ['s17', '"s17"', 'fine s17', '"fine s17"', 's17 or nothing0', 'nothing0 or s17'];
    const without = ['-s17', 'fine -s17'];
    expect(await findings(17, 'all is fine', [...queries, ...without])).toEqual({
      ...all(queries, false),
      ...all(without, true),
    });
  });

  test('a word that is there hundreds of times does not hide what follows it', async () => {
    const trace = `${'at com.example.Handler\n'.repeat(400)}caused by com.example.Needle`;
    // PostgreSQL keeps 255 places of a word in a text.
    const phrases = ['com.example.needle', '"example Needle"'];
    expect(await findings(17, trace, ['needle', 'example needle', ...phrases])).toEqual({
      ...all(['needle', 'example needle'], true),
      ...all(phrases, false),
    });
  });

  test('an or that is left out, or in quotes, is a word', async () => {
    expect(await findings(17, 'now or never', ['"or"', 'now -or', 'now -"or"'])).toEqual({
      '"or"': true,
      'now -or': false,
      'now -"or"': false,
    });
    expect(await findings(17, 'now and then', ['"or"', 'now -or', 'now -"or"'])).toEqual({
      '"or"': false,
      'now -or': true,
      'now -"or"': true,
    });
  });
});
