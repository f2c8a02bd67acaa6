// The status page of an org, for everybody.
import { html } from 'hono/html';
import { badge, empty, type Html, number, publicPage, time } from '../layout.ts';
import { timelineBars } from './service.ts';

interface StatusPage {
  title: string;
  updated_at: string;
  status: string;
  services: {
    service_name: string;
    description: string | null;
    current_status: string;
    uptime_percentage: number | null;
    days: { day: string; uptime_percentage: number | null }[];
  }[];
}

const sentences: Record<string, string> = {
  healthy: 'All systems are up',
  degraded: 'Some systems are degraded',
  unhealthy: 'Some systems are down',
  unknown: 'The state of some systems is not known',
};

export function statusPage(found: StatusPage): Html {
  const today = Math.floor(Date.now() / 86_400_000);
  const days = Array.from({ length: 90 }, (_, i) =>
    new Date((today - 89 + i) * 86_400_000).toISOString().slice(0, 10),
  );
  return publicPage(
    found.title,
    ['times'],
    html`<div class="status-page"><h1>${found.title}</h1>
<p class="banner ${found.status}">${sentences[found.status]}</p>
${found.services.length === 0 ? empty('No service is shown here.') : ''}
${found.services.map((s) => {
  const known = new Map(s.days.map((day) => [day.day, day.uptime_percentage]));
  return html`<section class="panel"><div class="panel-head"><h2>${s.service_name}</h2>${badge(s.current_status)}</div>
${s.description ? html`<p class="hint">${s.description}</p>` : ''}
${timelineBars(
  days.map((day) => {
    const uptime = known.get(day);
    return uptime === undefined || uptime === null
      ? undefined
      : {
          status: uptime >= 99.95 ? 'healthy' : uptime >= 95 ? 'degraded' : 'unhealthy',
          text: `${day}: ${number(uptime, ' % up', 2)}`,
        };
  }),
)}
<p class="scale"><span>90 days ago</span><span>${number(s.uptime_percentage, ' % up', 3)}</span><span>today</span></p></section>`;
})}
<p class="hint">As of ${time(found.updated_at)}</p></div>`,
  );
}
