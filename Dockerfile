# One image for API (the default command), worker and migrations.
FROM node:24.11-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && npm cache clean --force
COPY bin bin
COPY db db
COPY src src
COPY jobs jobs
USER node
EXPOSE 8004
CMD ["node", "src/main.ts"]
